"""Loads the pictures of a call: all at once, within its time, and from memory where they are known."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import hashlib
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from genrank.background import end_loop, start_loop
from genrank.errors import EngineError, MissingExtraError
from genrank.pictures.preparing import Picture, check_pillow, prepare
from genrank.pictures.settings import Pictures
from genrank.pictures.sources import PictureError, Resolve, Trouble, fetch, is_web, look_up, read_here

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

Loaded = Mapping[str, Picture | Trouble]
"""By address: the picture, or why there is none."""

_DECODERS = 4  # threads; a picture may take 100 MB while it is decoded
_FAILED_SECONDS = 30.0
_MOST_ADDRESSES = 65536


class PictureLoader:
    """Fetches, checks and prepares pictures, from any number of threads and event loops.

    Args:
        pictures: Where they may come from, and how large they may be.
        transport: Makes the requests in place of the network, for tests.
        resolve: Looks up hosts in place of the system, for tests.

    Attributes:
        close: Gives up what is being loaded; a second call does nothing.

    Raises:
        MissingExtraError: When Pillow or httpx is not installed.
    """

    def __init__(
        self,
        pictures: Pictures,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        resolve: Resolve = look_up,
    ) -> None:
        check_pillow()
        try:
            import httpx
        except ImportError:
            raise MissingExtraError("httpx", "pictures") from None
        self.pictures = pictures
        self._resolve = resolve
        self._client = httpx.AsyncClient(
            headers={"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "genrank"},
            timeout=httpx.Timeout(pictures.timeout, pool=None),
            # connections are made by IP address: one that is kept could serve another name than it was checked for
            limits=httpx.Limits(max_connections=pictures.in_flight, max_keepalive_connections=0),
            follow_redirects=False,
            trust_env=False,  # a proxy would look up the host itself
            transport=transport,
        )
        self._slots = asyncio.Semaphore(pictures.in_flight)
        self._decoders = concurrent.futures.ThreadPoolExecutor(_DECODERS, thread_name_prefix="genrank-pictures")
        # what follows is used in the loop's thread alone
        self._kept: OrderedDict[bytes, Picture] = OrderedDict()  # by the file's SHA-256, the latest used last
        self._kept_bytes = 0
        self._known: OrderedDict[str, tuple[float, bytes | Trouble]] = OrderedDict()  # by https address: until when
        self._loop, thread = start_loop("genrank-pictures")
        self.close: weakref.finalize[..., PictureLoader] = weakref.finalize(
            self, _end, self._loop, thread, self._client, self._decoders
        )

    def load(self, addresses: Iterable[str], seconds: float | None = None) -> Loaded:
        """Load pictures; what is not there in time is a ``timeout``.

        Args:
            addresses: Any texts.
            seconds: The most to wait, if that is less than `Pictures.timeout`.

        Raises:
            EngineError: When the loader is closed.
        """
        found, future, patience = self._start(addresses, seconds)
        try:
            concurrent.futures.wait([future], patience)
        finally:
            late = future.cancel()
        if not late:
            _check_whole(future)
        return dict(found)

    async def aload(self, addresses: Iterable[str], seconds: float | None = None) -> Loaded:
        """`load` for asyncio; when the caller is cancelled, the loading ends."""
        found, future, patience = self._start(addresses, seconds)
        try:
            waiting = asyncio.wrap_future(future)
            waiting.add_done_callback(lambda done: done.cancelled() or done.exception())  # else asyncio logs it
            await asyncio.wait({waiting}, timeout=patience)
        finally:
            late = future.cancel()
        if not late:
            _check_whole(future)
        return dict(found)

    def _start(
        self, addresses: Iterable[str], seconds: float | None
    ) -> tuple[dict[str, Picture | Trouble], concurrent.futures.Future[None], float]:
        if not self.close.alive:
            raise EngineError("the loader of pictures is closed; create a new one")
        found: dict[str, Picture | Trouble] = dict.fromkeys(addresses, "timeout")
        patience = self.pictures.timeout if seconds is None else max(0.0, min(seconds, self.pictures.timeout))
        return found, asyncio.run_coroutine_threadsafe(self._load(found), self._loop), patience

    async def _load(self, found: dict[str, Picture | Trouble]) -> None:
        """Replace each value as its picture is there."""

        async def fill(address: str) -> None:
            found[address] = await self._one(address)

        await asyncio.gather(*map(fill, list(found)))

    async def _one(self, address: str) -> Picture | Trouble:
        if not is_web(address):
            try:
                return await self._prepared(await self._in_thread(read_here, address, self.pictures))
            except PictureError as error:
                return error.trouble
        until, known = self._known.get(address, (0.0, "source"))
        if time.monotonic() < until:
            if isinstance(known, str):
                return known
            if (picture := self._find(known)) is not None:
                return picture
        try:
            data = await self._fetch(address)
            picture = await self._prepared(data)
        except PictureError as error:
            self._remember(address, error.trouble, min(_FAILED_SECONDS, self.pictures.kept_seconds))
            return error.trouble
        self._remember(address, _key(data), self.pictures.kept_seconds)
        return picture

    async def _fetch(self, address: str) -> bytes:
        async with self._slots:
            started = time.monotonic()
            try:
                return await fetch(address, self.pictures, self._client, self._resolve)
            except asyncio.CancelledError:
                if time.monotonic() - started > self.pictures.timeout / 2:  # the host is slow, not the caller hasty
                    self._remember(address, "timeout", min(_FAILED_SECONDS, self.pictures.kept_seconds))
                raise

    async def _prepared(self, data: bytes) -> Picture:
        key = _key(data)
        if (picture := self._find(key)) is None:
            picture = await self._in_thread(prepare, data, self.pictures)
            self._keep(key, picture)
        return picture

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        return await self._loop.run_in_executor(self._decoders, work, *arguments)

    def _find(self, key: bytes) -> Picture | None:
        if (picture := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
        return picture

    def _keep(self, key: bytes, picture: Picture) -> None:
        size = len(picture.data)
        if key in self._kept or size > self.pictures.kept_bytes:
            return
        self._kept[key] = picture
        self._kept_bytes += size
        while self._kept_bytes > self.pictures.kept_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest.data)

    def _remember(self, address: str, what: bytes | Trouble, seconds: float) -> None:
        self._known[address] = time.monotonic() + seconds, what
        self._known.move_to_end(address)
        if len(self._known) > _MOST_ADDRESSES:
            self._known.popitem(last=False)


def _check_whole(future: concurrent.futures.Future[None]) -> None:
    """Raise what went wrong, but for being closed meanwhile, which leaves pictures out."""
    with contextlib.suppress(concurrent.futures.CancelledError):
        future.result()


def _key(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _end(
    loop: asyncio.AbstractEventLoop,
    thread: threading.Thread,
    client: httpx.AsyncClient,
    decoders: concurrent.futures.ThreadPoolExecutor,
) -> None:
    end_loop(loop, thread, client.aclose)
    decoders.shutdown(wait=False, cancel_futures=True)
