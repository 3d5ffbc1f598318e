from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from genrank.cascade import Cascade
from genrank.errors import InputError
from genrank.reranker import Reranker
from genrank.server.answers import Answer
from genrank.server.batching import QueueFullError
from genrank.server.cache import NoCache
from genrank.server.config import Config
from genrank.server.gateway import DownError, Gateway, Ranker
from genrank.testing import OracleEngine
from genrank.types import Candidate, Listing, Query, Request
from tests.unit.server.conftest import SlowEngine


def request(query: str = "dress", count: int = 4) -> Request:
    return Request(Query(query), tuple(Candidate(Listing(f"document-{i}", f"title {i}")) for i in range(count)))


def run(ranker: Ranker, use: Callable[[Gateway], Awaitable[Any]], **sections: Any) -> Any:
    """Use a gateway and close it."""

    async def body() -> Any:
        gateway = Gateway(ranker, Config.model_validate(sections))
        try:
            return await use(gateway)
        finally:
            await gateway.close()

    return asyncio.run(body())


def pointwise(engine: Any, **options: Any) -> Reranker:
    return Reranker(engine=engine, decoding="pointwise", **options)


async def ask(gateway: Gateway, query: str = "dress", **options: Any) -> tuple[Answer, bool]:
    ends = time.monotonic() + gateway.config.server.deadline
    return await gateway.rerank(request(query), **({"top_k": None, "reasons": 0, "ends": ends} | options))


def places(answer: Answer) -> list[int]:
    return [item.place for item in answer.items]


def test_an_answer_is_kept_and_costs_nothing_the_second_time(engine: SlowEngine) -> None:
    async def use(gateway: Gateway) -> list[tuple[Answer, bool]]:
        return [await ask(gateway), await ask(gateway), await ask(gateway, reasons=1), await ask(gateway, "dresses")]

    found = run(pointwise(engine), use)
    assert [cached for _, cached in found] == [False, True, False, False]
    assert found[0][0] == found[1][0]
    assert places(found[0][0]) == [3, 2, 1, 0]
    assert engine.calls == 4, "one a different request, and one for the reason"


def test_a_client_that_asks_again_while_it_waits_is_computed_once(engine: SlowEngine) -> None:
    engine.seconds = 0.05

    async def use(gateway: Gateway) -> list[tuple[Answer, bool]]:
        return await asyncio.gather(*(ask(gateway) for _ in range(3)))

    assert len({places(answer)[0] for answer, _ in run(pointwise(engine), use, cache={"bytes": 0})}) == 1
    assert engine.sizes == [4]


def test_requests_that_arrive_together_share_the_engine(engine: SlowEngine) -> None:
    engine.seconds = 0.02

    async def use(gateway: Gateway) -> str:
        await asyncio.gather(*(ask(gateway, f"dress {i}") for i in range(8)))
        return gateway.metrics.text().decode()

    text = run(pointwise(engine), use, batching={"size": 4, "wait": 0.01})
    assert engine.sizes == [16, 16]
    assert "genrank_batch_requests_count 2.0" in text


def test_a_slow_model_is_answered_without_by_the_deadline(engine: SlowEngine) -> None:
    engine.seconds = 5.0

    async def use(gateway: Gateway) -> tuple[Answer, float]:
        started = time.monotonic()
        answer, _ = await ask(gateway)
        return answer, time.monotonic() - started

    answer, took = run(pointwise(engine), use, server={"deadline": 0.4})
    assert took < 0.44
    assert (answer.tier, answer.cause, places(answer)) == ("first-stage", "deadline", [0, 1, 2, 3])
    assert [item.score for item in answer.items] == [1.0, 0.75, 0.5, 0.25]


def test_who_waits_in_the_queue_is_answered_by_the_deadline_too(engine: SlowEngine) -> None:
    engine.seconds = 5.0

    async def use(gateway: Gateway) -> tuple[list[Answer], float]:
        started = time.monotonic()
        found = await asyncio.gather(*(ask(gateway, f"dress {i}") for i in range(3)))
        return [answer for answer, _ in found], time.monotonic() - started

    answers, took = run(pointwise(engine), use, server={"deadline": 0.4}, batching={"size": 1})
    assert took < 0.44
    assert [(answer.tier, answer.cause, len(answer.items)) for answer in answers] == [
        ("first-stage", "deadline", 4)
    ] * 3


def test_the_fallback_orders_what_the_model_cannot(engine: SlowEngine) -> None:
    engine.failing = True

    def fallback(requests: Sequence[Request]) -> list[list[float]]:
        return [[2.0, 1.0, 4.0, 3.0] for _ in requests]

    async def use(gateway: Gateway) -> list[Answer]:
        return [(await ask(gateway, f"dress {i}"))[0] for i in range(3)]

    answers = run(pointwise(engine, fallback=fallback), use, breaker={"failures": 2, "cool_down": 60})
    assert [places(answer) for answer in answers] == [[2, 3, 0, 1]] * 3
    assert {answer.cause for answer in answers} == {"engine-error"}
    assert len(engine.sizes) == 2, "the breaker kept the third one away"


def test_the_breaker_lets_the_engine_recover(engine: SlowEngine) -> None:
    engine.failing = True

    async def use(gateway: Gateway) -> list[str]:
        tiers = [(await ask(gateway))[0].tier, (await ask(gateway))[0].tier]
        states = [gateway.breaker.state]
        engine.failing = False
        await asyncio.sleep(0.1)
        tiers += [(await ask(gateway))[0].tier, (await ask(gateway))[0].tier]
        return [*tiers, *states, gateway.breaker.state]

    found = run(pointwise(engine), use, breaker={"failures": 1, "cool_down": 0.05})
    assert found == ["first-stage", "first-stage", "model", "model", "open", "closed"]
    assert len(engine.sizes) == 2


def test_a_try_of_the_engine_writes_no_reasons_and_is_not_kept(engine: SlowEngine) -> None:
    engine.failing = True

    async def use(gateway: Gateway) -> tuple[Answer, Answer, bool]:
        await ask(gateway)
        engine.failing = False
        await asyncio.sleep(0.1)
        tried, _ = await ask(gateway, reasons=2)
        return tried, *await ask(gateway, reasons=2)

    tried, after, cached = run(pointwise(engine), use, breaker={"failures": 1, "cool_down": 0.05})
    assert (tried.tier, tried.outcome, tried.cause, tried.reasons_missing) == ("model", "repaired", "engine-error", 2)
    assert (after.tier, after.outcome, cached) == ("reasons", "model", False)
    assert places(tried) == places(after) == [3, 2, 1, 0]


def test_a_stalled_engine_opens_the_breaker_and_a_full_queue_does_not(engine: SlowEngine) -> None:
    engine.seconds = 5.0

    async def stalled(gateway: Gateway) -> str:
        await ask(gateway)
        return gateway.breaker.state

    async def queued(gateway: Gateway) -> str:
        engine.seconds = 0.3
        await asyncio.gather(*(ask(gateway, f"dress {i}") for i in range(3)))
        return gateway.breaker.state

    sections = {"server": {"deadline": 0.4}, "breaker": {"failures": 1}, "batching": {"size": 1}}
    assert run(pointwise(engine), stalled, **sections) == "open"
    assert run(pointwise(engine), queued, **sections) == "closed"


def test_who_has_waited_long_takes_no_time_from_the_others(engine: SlowEngine) -> None:
    async def use(gateway: Gateway) -> list[str]:
        engine.seconds = 0.3
        now = time.monotonic()
        first = asyncio.ensure_future(ask(gateway, "first"))
        await asyncio.sleep(0.05)
        late = asyncio.ensure_future(ask(gateway, "late", ends=now + 0.35))  # as if it had come long ago
        new = asyncio.ensure_future(ask(gateway, "new"))
        return [(await one)[0].tier for one in (first, late, new)]

    assert run(pointwise(engine), use, server={"deadline": 2.0}) == ["model", "first-stage", "model"]


def test_a_fallback_is_not_kept(engine: SlowEngine) -> None:
    engine.failing = True

    async def use(gateway: Gateway) -> list[str]:
        before = (await ask(gateway))[0].tier
        engine.failing = False
        return [before, (await ask(gateway))[0].tier]

    assert run(pointwise(engine), use) == ["first-stage", "model"]


def test_the_configuration_can_refuse_answers_without_the_model(engine: SlowEngine) -> None:
    engine.failing = True

    async def use(gateway: Gateway) -> tuple[bool, bool]:
        before = gateway.ready
        with pytest.raises(DownError):
            await ask(gateway)
        return before, gateway.ready

    refusing = {"server": {"when_down": "refuse"}, "breaker": {"failures": 1}}
    assert run(pointwise(engine), use, **refusing) == (True, False)


def test_whatever_the_reranker_raises_nothing_is_lost(engine: SlowEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    ranker = pointwise(engine)

    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(ranker, "arerank_batch", broken)

    async def use(gateway: Gateway) -> tuple[Answer, str]:
        return (await ask(gateway))[0], gateway.breaker.state

    answer, state = run(ranker, use, breaker={"failures": 1})
    assert (answer.tier, answer.cause, len(answer.items)) == ("first-stage", "engine-error", 4)
    assert state == "open"


def test_a_try_whose_client_goes_makes_room_for_the_next(engine: SlowEngine) -> None:
    engine.failing = True

    async def use(gateway: Gateway) -> str:
        await ask(gateway)
        engine.failing, engine.seconds = False, 5.0
        engine.started.clear()
        await asyncio.sleep(0.1)
        gone = asyncio.ensure_future(ask(gateway))
        await asyncio.to_thread(engine.started.wait, 2)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        engine.seconds = 0.0
        await asyncio.sleep(0.05)
        return (await ask(gateway))[0].tier

    assert run(pointwise(engine), use, breaker={"failures": 1, "cool_down": 0.05}) == "model"


def test_a_slow_cache_holds_up_no_answer(engine: SlowEngine) -> None:
    class SlowCache(NoCache):
        kept = 0

        async def put(self, key: str, value: bytes) -> None:
            await asyncio.sleep(0.2)
            self.kept += 1

    cache = SlowCache()

    async def body() -> float:
        gateway = Gateway(pointwise(engine), Config(), cache=cache)
        started = time.monotonic()
        await ask(gateway)
        took = time.monotonic() - started
        await gateway.close()
        return took

    assert asyncio.run(body()) < 0.15
    assert cache.kept == 1, "closing waits for it"


def test_a_full_queue_is_an_error(engine: SlowEngine) -> None:
    engine.seconds = 0.3

    async def use(gateway: Gateway) -> int:
        asked = []
        for i in range(4):
            asked.append(asyncio.ensure_future(ask(gateway, f"dress {i}")))
            await asyncio.sleep(0.02)
        done = await asyncio.gather(*asked, return_exceptions=True)
        return sum(isinstance(one, QueueFullError) for one in done)

    assert run(pointwise(engine), use, batching={"size": 1, "queue": 1, "wait": 0}) == 2


def test_work_stops_when_nobody_waits(engine: SlowEngine) -> None:
    engine.seconds = 5.0

    async def use(gateway: Gateway) -> None:
        asked = asyncio.ensure_future(ask(gateway))
        await asyncio.to_thread(engine.started.wait, 2)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        assert await asyncio.to_thread(engine.stopped.wait, 2), "before the gateway closes"

    run(pointwise(engine), use)


def test_wrong_options_are_the_callers_mistake(engine: SlowEngine) -> None:
    cascade = Cascade(pointwise(engine), Reranker(engine=engine, decoding="inline"), top=2)
    with pytest.raises(InputError, match="reasons: the second stage writes them"):
        run(cascade, lambda gateway: ask(gateway, reasons=3))


def test_a_cascade_is_served_too() -> None:
    engine = OracleEngine({"document-2": 5.0, "document-1": 4.0})
    cascade = Cascade(pointwise(engine), Reranker(engine=engine, decoding="inline"), top=2)
    answer, _ = run(cascade, ask)
    assert places(answer)[:2] == [2, 1]


def test_a_tournament_looks_for_as_many_as_are_wanted() -> None:
    ranker = Reranker(engine=OracleEngine({f"document-{i}": float(i) for i in range(12)}), decoding="inline",
                      strategy="tournament", window=4)  # fmt: skip

    async def use(gateway: Gateway) -> list[list[int]]:
        ends = time.monotonic() + 30
        asked = [gateway.rerank(request(count=12), top_k=top_k, reasons=0, ends=ends) for top_k in (3, 99, None)]
        return [places(answer) for answer, _ in await asyncio.gather(*asked)]

    three, most, all_of_them = run(ranker, use)
    assert three == [11, 10, 9]
    assert most == all_of_them
    assert sorted(most) == list(range(12)), "more than a tournament can find is all"


@pytest.mark.parametrize(
    ("model", "section", "names"),
    [
        ("/models/qwen-shop", {}, ("qwen-shop",)),
        ("Qwen/Qwen3-0.6B", {"aliases": ["rerank-v3.5"]}, ("Qwen3-0.6B", "rerank-v3.5")),
        ("/models/qwen-shop", {"name": "shop"}, ("shop",)),
    ],
)
def test_clients_see_a_name_and_no_path(model: str, section: dict[str, Any], names: tuple[str, ...]) -> None:
    engine = OracleEngine({})
    engine.model = model

    async def use(gateway: Gateway) -> tuple[str, ...]:
        return gateway.names

    assert run(pointwise(engine), use, model=section) == names


def test_a_request_with_less_time_neither_waits_for_the_others_nor_cuts_them_short(engine: SlowEngine) -> None:
    """The same request twice at once, with 0.3 and with 20 seconds; the engine needs one."""
    engine.seconds = 1.0

    async def use(gateway: Gateway) -> tuple[tuple[str, float], tuple[str, float]]:
        async def rank(seconds: float) -> tuple[str, float]:
            started = time.monotonic()
            answer, _ = await gateway.rank(request(), top_k=None, reasons=0, ends=started + seconds, seconds=seconds)
            return answer.cause or answer.tier, time.monotonic() - started

        return await asyncio.gather(rank(0.3), rank(20.0))

    short, long = run(pointwise(engine), use, batching={"concurrency": 2})
    assert short[0] == "deadline"
    assert short[1] < 0.8
    assert long[0] == "model"


def test_a_short_deadline_of_its_own_leaves_the_model_most_of_it(engine: SlowEngine) -> None:
    engine.seconds = 0.5

    async def use(gateway: Gateway) -> str:
        ends = time.monotonic() + 1.2
        answer, _ = await gateway.rank(request(), top_k=None, reasons=0, ends=ends, seconds=1.2)
        return answer.tier

    assert run(pointwise(engine), use, server={"deadline": 60.0}) == "model", "the margin of 60 s is 3 s"
