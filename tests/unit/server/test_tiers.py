"""How an answer gets worse, tier by tier, and never fails: what a client sees over HTTP, and what is counted."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

import pytest

from genrank.engines.base import ScoreRequest, ScoreResult, Stop, TextResult, never
from genrank.errors import EngineError
from genrank.server.answers import Tier
from genrank.types import Request
from tests.unit.server.conftest import Serve, SlowEngine

ASKED = {"query": "red dress", "documents": ["Blue coat", "Red hat", "Red dress", "Mug"]}
SCORES = [1.0, 4.0, 2.0, 3.0]
BY_BASELINE = [1, 3, 2, 0]
BY_MODEL = [3, 2, 1, 0]
AS_SENT = [0, 1, 2, 3]

DEADLINE = 1.0
LATE = 3.0
"""Seconds; what hangs does so for far longer."""


class Baseline:
    """A fallback that gives fixed scores, and counts its calls."""

    def __init__(self, before: Callable[[], object] = lambda: None) -> None:
        self.calls = 0
        self._before = before

    def __call__(self, requests: Sequence[Request]) -> list[list[float]]:
        self.calls += 1
        self._before()
        return [SCORES[: len(request.candidates)] for request in requests]


@pytest.fixture
def hanging() -> Iterator[Baseline]:
    """A fallback that hangs until the test is over."""
    let_go = threading.Event()
    yield Baseline(lambda: let_go.wait(30))
    let_go.set()


def ask(client: Any, **fields: Any) -> tuple[dict[str, Any], list[int], float]:
    """The answer's details, its order, and the seconds that it took."""
    started = time.monotonic()
    answer = client.post("/v2/rerank", json=ASKED | fields)
    took = time.monotonic() - started
    assert answer.status_code == 200, answer.text
    details: dict[str, Any] = answer.json()["genrank"]
    assert answer.headers["x-genrank-tier"] == details["tier"]
    return details, [row["index"] for row in answer.json()["results"]], took


def counts(client: Any) -> dict[str, float]:
    """The tiers' counters that are not 0."""
    lines = client.get("/metrics").text.splitlines()
    found = {tier: f'genrank_tiers_total{{tier="{tier}"}} ' for tier in get_args(Tier)}
    values = {
        tier: float(line.removeprefix(head)) for tier, head in found.items() for line in lines if line.startswith(head)
    }
    assert values.keys() == found.keys(), "every tier is there"
    return {tier: value for tier, value in values.items() if value}


def test_every_tier_is_counted_from_the_start(serve: Serve) -> None:
    assert counts(serve()) == {}


def test_the_model_with_and_without_reasons(serve: Serve) -> None:
    client = serve()
    details, order, _ = ask(client, reasons=2)
    assert (details["tier"], details["reasons_missing"], order) == ("reasons", 0, BY_MODEL)
    details, order, _ = ask(client)
    assert (details["tier"], details["outcome"], order) == ("model", "model", BY_MODEL)
    assert counts(client) == {"reasons": 1, "model": 1}


def until_stopped(requests: Sequence[Any], *, stop: Stop = never) -> list[TextResult | None]:
    while not stop():
        time.sleep(0.005)
    return [None] * len(requests)


def broken(requests: Sequence[Any], *, stop: Stop = never) -> list[TextResult | None]:
    raise EngineError("gone")


@pytest.mark.parametrize("hangs", [False, True], ids=["stops", "hangs"])
def test_reasons_that_miss_the_deadline_do_not_cost_the_ranking(
    serve: Serve, engine: SlowEngine, hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()

    def hang(requests: Sequence[Any], *, stop: Stop = never) -> list[TextResult | None]:
        let_go.wait(30)
        return [None] * len(requests)

    monkeypatch.setattr(engine, "write", hang if hangs else until_stopped)
    client = serve(server={"deadline": DEADLINE})
    try:
        details, order, took = ask(client, reasons=2)
    finally:
        let_go.set()
    assert order == BY_MODEL
    assert (details["tier"], details["outcome"], details["cause"]) == ("model", "repaired", "deadline")
    assert details["reasons_missing"] == 2
    assert took < LATE
    assert counts(client) == {"model": 1}


def test_reasons_that_fail_do_not_cost_the_ranking(
    serve: Serve, engine: SlowEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "write", broken)
    details, order, _ = ask(serve(), reasons=1)
    assert order == BY_MODEL
    assert (details["tier"], details["cause"], details["reasons_missing"]) == ("model", "engine-error", 1)


def test_a_dead_engine_is_replaced_by_the_baseline_also_when_it_is_left_alone(serve: Serve, engine: SlowEngine) -> None:
    engine.failing = True
    baseline = Baseline()
    client = serve(reranker={"fallback": baseline}, breaker={"failures": 2, "cool_down": 60})
    for _ in range(4):
        details, order, _ = ask(client)
        assert (details["tier"], details["outcome"], details["cause"]) == ("baseline", "fallback", "engine-error")
        assert order == BY_BASELINE
    assert (len(engine.sizes), baseline.calls) == (2, 4), "the breaker kept the last two from the engine"
    assert counts(client) == {"baseline": 4}


def test_one_document_keeps_its_place_and_asks_no_baseline(serve: Serve, engine: SlowEngine) -> None:
    engine.failing = True
    baseline = Baseline()
    client = serve(reranker={"fallback": baseline}, breaker={"failures": 1, "cool_down": 60})
    for _ in range(2):  # the second one is kept from the engine by the breaker
        details, order, _ = ask(client, documents=["Red dress"])
        assert (details["tier"], details["cause"], order) == ("first-stage", "engine-error", [0])
    assert (len(engine.sizes), baseline.calls) == (1, 0)


def test_a_slow_engine_leaves_the_baseline_its_time(serve: Serve, engine: SlowEngine) -> None:
    engine.seconds = 5.0
    baseline = Baseline(lambda: time.sleep(0.05))
    details, order, took = ask(serve(reranker={"fallback": baseline}, server={"deadline": DEADLINE}))
    assert (details["tier"], details["cause"], order) == ("baseline", "deadline", BY_BASELINE)
    assert took < LATE


def test_who_waits_in_the_queue_gets_the_baseline_too(serve: Serve, engine: SlowEngine) -> None:
    engine.seconds = 5.0
    client = serve(reranker={"fallback": Baseline()}, server={"deadline": DEADLINE}, batching={"size": 1, "wait": 0})
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda i: ask(client, query=f"dress {i}"), range(3)))
    assert [(details["tier"], order) for details, order, _ in found] == [("baseline", BY_BASELINE)] * 3
    assert max(took for _, _, took in found) < LATE


def test_what_the_model_ranked_stays_and_the_worst_part_counts(
    serve: Serve, engine: SlowEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = engine.score

    def once(requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
        engine.failing = bool(engine.sizes)
        return score(requests, stop=stop)

    monkeypatch.setattr(engine, "score", once)
    windows = {"decoding": "inline", "window": 2, "stride": 1, "passes": 1}
    client = serve(reranker=windows | {"fallback": Baseline()})
    details, order, _ = ask(client)
    assert (details["tier"], details["outcome"], details["windows"]) == ("baseline", "fallback", 1)
    assert sorted(order) == AS_SENT
    assert order.index(3) < order.index(2), "the model ranked the last two"
    assert order.index(1) < order.index(0), "the baseline the others"
    engine.sizes.clear()
    details, order, _ = ask(serve(reranker=windows))
    assert (details["tier"], details["windows"]) == ("first-stage", 1)
    assert order.index(0) < order.index(1)


def test_without_a_baseline_the_documents_stay_as_they_came(serve: Serve, engine: SlowEngine) -> None:
    engine.failing = True
    client = serve()
    details, order, _ = ask(client)
    assert (details["tier"], details["outcome"], order) == ("first-stage", "fallback", AS_SENT)
    assert counts(client) == {"first-stage": 1}


def fall(words: str) -> Callable[[], object]:
    def raise_it() -> None:
        raise ValueError(words)

    return raise_it


@pytest.mark.parametrize("failures", [1, 99], ids=["breaker opens", "breaker closed"])
def test_a_baseline_that_raises_is_logged_without_its_words(
    serve: Serve, engine: SlowEngine, failures: int, caplog: pytest.LogCaptureFixture
) -> None:
    engine.failing = True
    client = serve(reranker={"fallback": Baseline(fall("Red dress"))}, breaker={"failures": failures})
    for _ in range(2):
        details, order, _ = ask(client)
        assert (details["tier"], details["cause"], order) == ("first-stage", "engine-error", AS_SENT)
    from genrank.server.logs import JsonFormatter

    records = [record for record in caplog.records if record.name == "genrank.fallback"]
    assert [record.levelno for record in records] == [logging.WARNING] * 2
    lines = [JsonFormatter().format(record) for record in records]
    assert all('"error": "ValueError"' in line and "Red dress" not in line for line in lines)
    assert counts(client) == {"first-stage": 2}


def test_a_baseline_that_hangs_takes_no_more_than_its_time(
    serve: Serve, engine: SlowEngine, hanging: Baseline, caplog: pytest.LogCaptureFixture
) -> None:
    engine.failing = True
    client = serve(reranker={"fallback": hanging}, server={"deadline": DEADLINE}, breaker={"failures": 1})
    details, order, took = ask(client)
    assert (details["tier"], order) == ("first-stage", AS_SENT)
    assert took < LATE
    details, order, _ = ask(client)
    assert (details["tier"], order) == ("first-stage", AS_SENT)
    assert hanging.calls == 1, "hung calls do not pile up"
    words = [record.getMessage() for record in caplog.records if record.name == "genrank.fallback"]
    assert len(words) == 2
    assert re.fullmatch(r"the fallback failed: it took more than \d\.?\d* s", words[0])
    assert words[1] == "the fallback failed: an earlier call of it still runs"


def test_both_may_hang(serve: Serve, engine: SlowEngine, hanging: Baseline) -> None:
    engine.seconds = 5.0
    details, order, took = ask(serve(reranker={"fallback": hanging}, server={"deadline": DEADLINE}))
    assert (details["tier"], details["cause"], order) == ("first-stage", "deadline", AS_SENT)
    assert took < LATE


def test_a_refusing_server_refuses_the_baseline_too(serve: Serve, engine: SlowEngine) -> None:
    engine.failing = True
    client = serve(reranker={"fallback": Baseline()}, server={"when_down": "refuse"})
    assert client.post("/v2/rerank", json=ASKED).status_code == 503


def test_the_schema_names_every_tier(serve: Serve) -> None:
    with contextlib.closing(serve()) as client:
        details = client.get("/openapi.json").json()["components"]["schemas"]["Details"]["properties"]
    assert details["tier"]["enum"] == list(get_args(Tier))
    assert all(f"`{tier}`" in details["tier"]["description"] for tier in get_args(Tier))
