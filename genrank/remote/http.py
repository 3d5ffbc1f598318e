"""A connection to a server: pooled, with a bound on the requests in flight and retries where these may help.

One event loop in a thread of its own makes all requests, so callers from any thread and any event loop share one pool.
A call that is given up closes its requests, and the server drops their work.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import json
import math
import os
import random
import re
import urllib.parse
import weakref
from collections.abc import Coroutine, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from genrank.background import end_loop, start_loop
from genrank.engines.base import Stop, never
from genrank.engines.loops import await_for, wait_for
from genrank.errors import ConfigError, EngineError, InputError, MissingExtraError
from genrank.text.clean import clean

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

API_KEY = "GENRANK_API_KEY"
"""The environment variable that holds a server's key."""

_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_LONGEST_WAIT = 60.0  # seconds; a server that asks for more is given up
_LONGEST_BACKOFF = 8.0
_CONNECT = 10.0
_PATIENCE = 10  # times the timeout that a request may take while the server answers others
_MAX_BYTES = 64 << 20
_MAX_ERROR_BYTES = 2000


class RefusedError(EngineError):
    """The server refused a request, and would refuse it again.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class FailedError(EngineError):
    """The server answered every attempt, the last with an error that mostly passes.

    Attributes:
        status: The HTTP status. 500 may mean that it was asked for what it cannot do.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class _PassingError(Exception):
    """A request failed in a way that may pass.

    Attributes:
        wait: Seconds that the server asks to be left alone; None if it does not say.
        status: The HTTP status; 0 without an answer.
    """

    def __init__(self, words: str, wait: float | None = None, status: int = 0) -> None:
        super().__init__(words)
        self.wait = wait
        self.status = status


class Connection:
    """Sends JSON to one server and gets JSON back.

    Args:
        url: The server's address, such as ``http://127.0.0.1:8000/v1``; without a path, ``/v1`` is added.
        in_flight: The most requests at once; further ones wait for their turn.
        attempts: How often a request is made at most, if it fails in a way that may pass.
        backoff: Seconds before the second attempt, doubled for each further one, and shortened by chance by up to a
            half. The server's ``Retry-After`` takes precedence.
        timeout: Seconds without any whole answer of the server after which an attempt is given up: while it answers
            others, this one may be waiting for its turn. After ten times as long it is given up in any case.
        transport: Makes the requests in place of the network, for tests.

    Attributes:
        url: The address.
        close: Gives up the requests in flight and closes the connections; a second call does nothing.

    Raises:
        InputError: When an argument is wrong.
        ConfigError: When the environment holds something that cannot be a key, or a broken proxy setting.
        MissingExtraError: When httpx is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        in_flight: int = 32,
        attempts: int = 4,
        backoff: float = 0.5,
        timeout: float = 60.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url: str = address(url)
        for name, value in (("in_flight", in_flight), ("attempts", attempts)):
            if value < 1:
                raise InputError(f"must be at least 1, got {value}", field=name)
        if not timeout > 0:
            raise InputError(f"must be more than 0, got {timeout}", field="timeout")
        self._attempts, self._backoff, self._timeout = attempts, backoff, timeout
        self._slots = asyncio.Semaphore(in_flight)
        self._limits: dict[asyncio.Timeout, float] = {}  # of the attempts in flight, and when each ends in any case
        self._httpx = httpx = import_httpx()
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "genrank"}
        try:
            self._http = httpx.AsyncClient(
                headers=headers | _authorization(),
                timeout=httpx.Timeout(None, connect=min(_CONNECT, timeout)),
                limits=httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight),
                follow_redirects=False,  # one would take the key to another address
                transport=transport,
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:  # what the proxy settings name
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"no connection can be made to {self.url}: {error}; check the proxy settings") from None
        self._loop, thread = start_loop("genrank-http")
        # at the interpreter's exit too
        self.close: weakref.finalize[..., Connection] = weakref.finalize(
            self, end_loop, self._loop, thread, self._http.aclose
        )

    def wait(self, work: Coroutine[Any, Any, T], stop: Stop = never) -> T | None:
        """Run `work` in the connection's loop until it is done; None if `stop` says to give up before.

        Raises:
            EngineError: When it fails, or the connection is closed.
        """
        future = self._start(work)
        wait_for(future, stop)
        return self._result(future, stop)

    async def await_(self, work: Coroutine[Any, Any, T], stop: Stop = never) -> T | None:
        """`wait` in the caller's own event loop; when the caller is cancelled, so is the work."""
        future = self._start(work)
        await await_for(future, stop)
        return self._result(future, stop)

    def _start(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        if not self.close.alive:
            work.close()
            raise EngineError(f"the connection to {self.url} is closed; create a new engine")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _result(self, future: concurrent.futures.Future[T], stop: Stop) -> T | None:
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            if not stop():
                raise EngineError(f"the connection to {self.url} was closed during the call") from None
            return None
        except ExceptionGroup as group:
            raise group.exceptions[0] from group

    async def get(self, path: str) -> Any:
        """`post` without a body."""
        return await self._ask("GET", path, None)

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send a JSON object and return the JSON that comes back.

        Args:
            path: Below the address, such as ``/completions``; ``../`` leaves ``/v1``.
            body: The object.

        Raises:
            RefusedError: When the server refuses the request: asking again would not help.
            EngineError: When the server cannot be reached, fails or gives no JSON, as often as it was asked.
        """
        return await self._ask("POST", path, json.dumps(body).encode())

    async def _ask(self, method: str, path: str, data: bytes | None) -> Any:
        url = self.url.removesuffix("/v1") + path[2:] if path.startswith("../") else self.url + path
        for attempt in itertools.count(1):
            try:
                async with self._slots:
                    return await self._send(method, url, data)
            except _PassingError as error:
                wait = error.wait
                if attempt == self._attempts or (wait or 0.0) > _LONGEST_WAIT:
                    times = "" if attempt == 1 else f" {attempt} times, at last"
                    if error.status:
                        words = f"{url} failed{times}: {error}; the server may be starting or overloaded: see its log"
                        raise FailedError(words, error.status) from None
                    raise EngineError(
                        f"{url} failed{times}: {error}; check that the server is running and not overloaded "
                        "(genrank vllm starts one)"
                    ) from None
            if wait is None:
                wait = min(self._backoff * 2.0 ** (attempt - 1), _LONGEST_BACKOFF) * random.uniform(0.5, 1.0)
            else:
                wait *= random.uniform(1.0, 1.25)  # never earlier than asked, and not all callers at once
            await asyncio.sleep(wait)
        return None  # for the type checker: the loop has no end

    async def _send(self, method: str, url: str, data: bytes | None) -> Any:
        httpx = self._httpx
        started, limit = asyncio.get_running_loop().time(), asyncio.timeout(self._timeout)
        try:
            async with limit:
                self._limits[limit] = started + _PATIENCE * self._timeout
                async with self._http.stream(method, url, content=data) as response:
                    found = await read_body(response, _MAX_BYTES if response.is_success else _MAX_ERROR_BYTES)
        except (TimeoutError, httpx.TimeoutException):
            waited = asyncio.get_running_loop().time() - started
            raise _PassingError(f"no whole answer within {round(waited, 1):g} s") from None
        except (OSError, httpx.HTTPError) as error:
            raise _PassingError(str(error) or type(error).__name__) from None
        finally:
            self._limits.pop(limit, None)
        self._put_off()
        if response.is_success:
            try:
                return json.loads(found)
            except (ValueError, RecursionError):
                raise _PassingError(f"the answer is no JSON: {found[:80]!r}") from None
        code = response.status_code
        words = clean(f"HTTP {code} {response.reason_phrase} {_said(found)}")[:300].strip()
        if code in _PASSING:
            raise _PassingError(words, retry_after(response.headers.get("Retry-After", ""), datetime.now(UTC)), code)
        fix = f"; put the server's key into the environment variable {API_KEY}" if code in (401, 403) else ""
        raise RefusedError(f"{url} refused the request: {words}{fix}", code)

    def _put_off(self) -> None:
        """The server has answered: whoever waits for it may wait longer."""
        now = asyncio.get_running_loop().time()
        for limit, last in self._limits.items():
            if not limit.expired():
                limit.reschedule(min(now + self._timeout, last))


def address(url: str) -> str:
    """A server's address without a slash at its end; ``/v1`` is added where there is no path.

    Raises:
        InputError: When it is not the address of a server.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError:
        raise InputError(f"must be an address such as http://127.0.0.1:8000/v1, got {url!r}", field="engine") from None
    if "@" in parts.netloc:  # not shown: it may hold a password
        raise InputError(f"must hold no name and password; put a key into {API_KEY}", field="engine")
    plain = url.isascii() and url.isprintable() and " " not in url and not (parts.query or parts.fragment)
    if parts.scheme not in ("http", "https") or not parts.hostname or not plain or port == 0:
        raise InputError(f"must be an address such as http://127.0.0.1:8000/v1, got {url!r}", field="engine")
    return url.rstrip("/") + ("" if parts.path.strip("/") else "/v1")


def _authorization() -> dict[str, str]:
    """The header with the key; empty where the environment has none.

    Raises:
        ConfigError: When it cannot be a key.
    """
    key = os.environ.get(API_KEY, "").strip()
    if not key:
        return {}
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"the environment variable {API_KEY} does not hold a key; export {API_KEY}=...")
    return {"Authorization": f"Bearer {key}"}


def _said(found: bytes) -> str:
    """The message of an error's body, in any of the usual shapes."""
    text = found.decode("utf-8", "replace")
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(text)
        for key in ("error", "message", "detail"):
            if isinstance(value, dict) and key in value:
                value = value[key]
        return value if isinstance(value, str) else json.dumps(value)
    return text


def import_httpx() -> ModuleType:
    """The package httpx.

    Raises:
        MissingExtraError: When it is not installed.
    """
    try:
        import httpx
    except ImportError:
        raise MissingExtraError("httpx", "remote") from None
    return httpx


async def read_body(response: Any, most: int) -> bytes:
    """The first `most` bytes of a response's body, or somewhat more."""
    found = bytearray()
    async for part in response.aiter_bytes():
        found += part
        if len(found) >= most:
            break
    return bytes(found)


def retry_after(text: str, now: datetime) -> float | None:
    """Seconds to wait by a ``Retry-After`` header, which holds seconds or a date; None if it holds neither.

    Args:
        text: The header's value.
        now: The time from which a date is counted; one that has passed gives 0.
    """
    text = text.strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        return float(text)
    try:
        then = parsedate_to_datetime(text)
        seconds = (then if then.tzinfo else then.replace(tzinfo=UTC)).timestamp() - now.timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
