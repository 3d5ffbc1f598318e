from __future__ import annotations

import asyncio
import dataclasses
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from genrank.reranker import Reranker
from genrank.server.answers import Answer
from genrank.server.cache import Flights, MemoryCache, NoCache, RedisCache, cache_key, make_cache
from genrank.server.config import CacheConfig, Config
from genrank.server.gateway import Gateway
from genrank.testing import OracleEngine
from genrank.types import Candidate, Interaction, Listing, Query, Request

REQUEST = Request(Query("dress"), (Candidate(Listing("a", "Red")), Candidate(Listing("b", "Blue"))))


def test_the_key_changes_with_everything_that_decides_an_answer() -> None:
    a, b = REQUEST.candidates
    changed = [
        dataclasses.replace(REQUEST, query=Query("dresses")),
        dataclasses.replace(REQUEST, candidates=(b, a)),
        dataclasses.replace(REQUEST, candidates=(a,)),
        dataclasses.replace(REQUEST, candidates=(dataclasses.replace(a, score=0.5), b)),
        dataclasses.replace(REQUEST, candidates=(Candidate(Listing("a", "Red", brand="Acme")), b)),
        dataclasses.replace(REQUEST, history=(Interaction("click", Listing("h", "Hat")),)),
    ]
    keys = [cache_key("model", request, 0, None) for request in (REQUEST, *changed)]
    keys += [cache_key("another", REQUEST, 0, None), cache_key("model", REQUEST, 1, None)]
    assert len(set(keys)) == len(keys)
    assert cache_key("model", dataclasses.replace(REQUEST), 0, None) == keys[0]


def test_memory_is_bounded_and_the_latest_used_stay() -> None:
    async def run() -> list[bool]:
        cache = MemoryCache(1000, 60)
        await cache.put("a", b"x" * 100)
        await cache.put("b", b"x" * 100)
        await cache.get("a")
        await cache.put("c", b"x" * 100)  # 400 bytes each, with what keeping costs
        await cache.put("huge", b"x" * 1000)
        return [await cache.get(key) is not None for key in ("a", "b", "c", "huge")]

    assert asyncio.run(run()) == [True, False, True, False]


def test_values_are_forgotten_in_time() -> None:
    async def run() -> bytes | None:
        cache = MemoryCache(1000, 0.01)
        await cache.put("a", b"x")
        await asyncio.sleep(0.02)
        return await cache.get("a")

    assert asyncio.run(run()) is None


def test_the_configuration_chooses_the_cache() -> None:
    assert isinstance(make_cache(CacheConfig()), MemoryCache)
    assert isinstance(make_cache(CacheConfig(bytes=0)), NoCache)
    pytest.importorskip("redis")
    assert isinstance(make_cache(CacheConfig(redis=SecretStr("redis://localhost"))), RedisCache)


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("redis")
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server on this machine: apt-get install redis-server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder: Path = tmp_path_factory.mktemp("redis")
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        for _ in range(100):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"
        server.terminate()


def test_redis_keeps_values_for_a_while(redis_url: str) -> None:
    async def run() -> list[bytes | None]:
        cache, other = RedisCache(redis_url, 0.2, "one:"), RedisCache(redis_url, 60, "other:")
        found = [await cache.get("a")]
        await cache.put("a", b"\x00value")
        found += [await cache.get("a"), await other.get("a")]
        await asyncio.sleep(0.3)
        found.append(await cache.get("a"))
        await cache.close()
        await other.close()
        return found

    assert asyncio.run(run()) == [None, b"\x00value", None, None]


def test_gateways_share_what_redis_keeps(redis_url: str) -> None:
    config = Config.model_validate({"cache": {"redis": redis_url, "prefix": "shared:"}})

    async def ask(grade: float) -> tuple[Answer, bool]:
        gateway = Gateway(Reranker(engine=OracleEngine({"b": grade}), decoding="pointwise"), config)
        try:
            return await gateway.rerank(REQUEST, top_k=None, reasons=0, ends=time.monotonic() + 30)
        finally:
            await gateway.close()

    first, second = asyncio.run(ask(1.0)), asyncio.run(ask(-1.0))
    assert (first[1], second[1]) == (False, True)
    assert first[0] == second[0], "the second engine, which would rank otherwise, was not asked"


def test_a_dead_redis_is_an_empty_cache() -> None:
    pytest.importorskip("redis")
    errors = []

    async def run() -> list[bytes | None]:
        cache = RedisCache("redis://127.0.0.1:1/0", 60, "", on_error=lambda: errors.append(1))
        await cache.put("a", b"x")
        found = [await cache.get("a") for _ in range(5)]
        await cache.close()
        return found

    assert asyncio.run(run()) == [None] * 5
    assert len(errors) == 3, "then it is left alone for a while"


def seconds_waited_for_a_redis_that_hangs(make: Callable[[str], RedisCache]) -> float:
    pytest.importorskip("redis")

    async def run(port: int) -> float:
        cache = make(f"redis://127.0.0.1:{port}/0")
        started = time.monotonic()
        assert await cache.get("a") is None
        took = time.monotonic() - started
        await cache.close()
        return took

    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        return asyncio.run(run(deaf.getsockname()[1]))


def test_a_redis_that_hangs_is_not_waited_for() -> None:
    assert seconds_waited_for_a_redis_that_hangs(lambda url: RedisCache(url, 60, "")) < 1.0


def test_a_process_that_stands_still_does_not_take_redis_for_slow(redis_url: str) -> None:
    errors = []

    async def run() -> list[bytes | None]:
        cache = RedisCache(redis_url, 60, "still:", on_error=lambda: errors.append(1))
        await cache.put("a", b"x")
        looking = [asyncio.ensure_future(cache.get("a")) for _ in range(32)]
        for _ in range(3):
            await asyncio.sleep(0)
            time.sleep(0.3)
        found = await asyncio.gather(*looking)
        await cache.close()
        return found

    assert asyncio.run(run()) == [b"x"] * 32
    assert not errors


@pytest.mark.parametrize("patience", [0.05, 0.4])
def test_redis_is_waited_for_as_long_as_told(patience: float) -> None:
    def make(url: str) -> RedisCache:
        cache = make_cache(CacheConfig(redis=SecretStr(url), patience=patience))
        assert isinstance(cache, RedisCache)
        return cache

    assert patience <= seconds_waited_for_a_redis_that_hangs(make) < patience + 1.0


def test_one_computation_serves_all_who_ask_meanwhile() -> None:
    computed = []

    async def compute() -> str:
        computed.append(1)
        await asyncio.sleep(0.01)
        return "answer"

    async def run() -> list[str]:
        flights: Flights[str] = Flights()
        first = await asyncio.gather(*(flights.share("key", compute) for _ in range(5)), flights.share("else", compute))
        return [*first, await flights.share("key", compute)]

    assert asyncio.run(run()) == ["answer"] * 7
    assert len(computed) == 3, "for key, for else, and for key again when the first was done"


def test_work_stops_when_the_last_of_its_callers_goes() -> None:
    events = []

    async def compute() -> str:
        events.append("started")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            events.append("stopped")
            raise
        return ""

    async def run() -> None:
        flights: Flights[str] = Flights()
        callers = [asyncio.ensure_future(flights.share("key", compute)) for _ in range(2)]
        await asyncio.sleep(0.01)
        callers[0].cancel()
        await asyncio.sleep(0.01)
        assert events == ["started"], "one still waits"
        callers[1].cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        late = asyncio.ensure_future(flights.share("key", compute))
        await asyncio.sleep(0.01)
        late.cancel()
        await asyncio.gather(late, return_exceptions=True)
        await asyncio.sleep(0)

    asyncio.run(run())
    assert events == ["started", "stopped", "started", "stopped"]


def test_an_error_reaches_all_callers() -> None:
    async def compute() -> str:
        await asyncio.sleep(0.01)
        raise ValueError("no")

    async def run() -> list[str | BaseException]:
        flights: Flights[str] = Flights()
        return await asyncio.gather(*(flights.share("key", compute) for _ in range(2)), return_exceptions=True)

    assert [type(found) for found in asyncio.run(run())] == [ValueError, ValueError]
