"""Keeps answers, in this process or in Redis, and shares one computation among identical requests."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar

import cachetools
from pydantic_core import to_json

from genrank.errors import MissingExtraError
from genrank.server.breaker import Breaker
from genrank.server.config import CacheConfig
from genrank.types import Request

T = TypeVar("T")

_LOOKS = 8  # times that one looks for Redis's answer within the patience
_FAILURES = 3  # in a row, before it is left alone for a while
_COOL_DOWN = 10.0  # seconds
_OVERHEAD = 300  # bytes that a kept answer takes besides its own


def cache_key(fingerprint: str, request: Request, *options: object) -> str:
    """The key of a request's answer: a digest of everything that decides it.

    Args:
        fingerprint: See `genrank.Reranker.fingerprint`; it covers model, adapter and prompt.
        request: Its history is masked already.
        options: Of the call.
    """
    return hashlib.sha256(to_json((fingerprint, options, request))).hexdigest()


class Cache(Protocol):
    """Keeps bytes for a while; it may forget or fail, but never raises."""

    async def get(self, key: str) -> bytes | None:
        """What was kept under a key; None for nothing."""

    async def put(self, key: str, value: bytes) -> None:
        """Keep a value."""

    async def close(self) -> None:
        """Free its resources."""


class NoCache:
    """Keeps nothing."""

    async def get(self, key: str) -> bytes | None:  # noqa: ARG002 - Cache's signature
        """See `Cache`."""
        return None

    async def put(self, key: str, value: bytes) -> None:
        """See `Cache`."""

    async def close(self) -> None:
        """See `Cache`."""


class MemoryCache:
    """Keeps values in this process, the latest used ones, up to a number of bytes.

    Args:
        most: Bytes.
        seconds: How long a value is kept.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._kept: cachetools.TTLCache[str, bytes] = cachetools.TTLCache(most, seconds, getsizeof=_size)

    async def get(self, key: str) -> bytes | None:
        """See `Cache`."""
        return self._kept.get(key)

    async def put(self, key: str, value: bytes) -> None:
        """See `Cache`."""
        if _size(value) <= self._kept.maxsize:
            self._kept[key] = value

    async def close(self) -> None:
        """See `Cache`."""
        self._kept.clear()


def _size(value: bytes) -> int:
    return len(value) + _OVERHEAD


class RedisCache:
    """Keeps values in Redis; an error or a delay of Redis counts as nothing kept.

    Args:
        url: Such as ``redis://localhost:6379/0``.
        seconds: How long a value is kept.
        prefix: Begins every key.
        patience: Seconds that a call waits for Redis. Times in which this process itself stands still count little, so
            that they are not taken for a slow Redis.
        on_error: Called at every failure.

    Raises:
        MissingExtraError: When the redis package is not installed.
    """

    def __init__(
        self,
        url: str,
        seconds: float,
        prefix: str,
        *,
        patience: float = 0.2,
        on_error: Callable[[], object] = lambda: None,
    ) -> None:
        try:
            import redis.asyncio as redis
            from redis.exceptions import RedisError
        except ImportError:
            raise MissingExtraError("redis", "server") from None
        self._redis: Any = redis.Redis.from_url(url, socket_timeout=None, socket_connect_timeout=None, retry=None)
        self._patience = patience
        self._troubles = (RedisError, OSError, TimeoutError)
        self._milliseconds = max(1, round(seconds * 1000))
        self._prefix = prefix
        self._on_error = on_error
        self._breaker = Breaker(_FAILURES, _COOL_DOWN)

    async def get(self, key: str) -> bytes | None:
        """See `Cache`."""

        async def look_up() -> bytes | None:
            found: bytes | None = await self._redis.get(self._prefix + key)
            return found

        return await self._try(look_up)

    async def put(self, key: str, value: bytes) -> None:
        """See `Cache`."""

        async def keep() -> None:
            await self._redis.set(self._prefix + key, value, px=self._milliseconds)

        await self._try(keep)

    async def close(self) -> None:
        """See `Cache`."""
        await self._redis.aclose()

    async def _try(self, call: Callable[[], Awaitable[bytes | None]]) -> bytes | None:
        """Make a call; a failure, or a cache that failed often lately, is None."""
        if not self._breaker.admits():
            return None
        found = None
        try:
            found = await _within(self._patience, call)
        except self._troubles:
            self._breaker.record(failed=True)
            self._on_error()
        except asyncio.CancelledError:
            self._breaker.give_up()
            raise
        else:
            self._breaker.record(failed=False)
        return found


async def _within(seconds: float, call: Callable[[], Awaitable[T]]) -> T:
    """The result of `call`, waited for in short waits, each of which counts for no more than it was to take.

    Raises:
        TimeoutError: When there is none after so many seconds of waiting.
    """
    task = asyncio.ensure_future(_run(call))
    task.add_done_callback(lambda task: task.cancelled() or task.exception())  # else asyncio logs it
    try:
        for _ in range(_LOOKS):
            done, _ = await asyncio.wait((task,), timeout=seconds / _LOOKS)
            if done:
                return task.result()
        raise TimeoutError
    finally:
        task.cancel()


def make_cache(config: CacheConfig, *, on_error: Callable[[], object] = lambda: None) -> Cache:
    """The cache that the configuration asks for; `on_error` is told of Redis's failures.

    Raises:
        MissingExtraError: When the redis package is needed and not installed.
    """
    if config.redis is not None:
        url = config.redis.get_secret_value()
        return RedisCache(url, config.seconds, config.prefix, patience=config.patience, on_error=on_error)
    return MemoryCache(config.bytes, config.seconds) if config.bytes else NoCache()


@dataclasses.dataclass(slots=True)
class _Flight(Generic[T]):
    task: asyncio.Task[T]
    waiting: int = 0


class Flights(Generic[T]):
    """Computes once what several callers want at the same time; when the last of them has gone, the work stops."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[T]] = {}

    async def share(self, key: Hashable, compute: Callable[[], Awaitable[T]]) -> T:
        """The result of `compute`, or of an earlier caller's with the same key that still runs."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.ensure_future(_run(compute)))
            flight.task.add_done_callback(lambda task: self._land(key, task))
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                self._land(key, flight.task)  # a later caller must not join what ends here
                flight.task.cancel()

    def _land(self, key: Hashable, task: asyncio.Task[T]) -> None:
        if (flight := self._flights.get(key)) and flight.task is task:
            del self._flights[key]
        if task.done() and not task.cancelled():
            task.exception()  # else asyncio logs it when nobody waits any more


async def _run(compute: Callable[[], Awaitable[T]]) -> T:
    return await compute()
