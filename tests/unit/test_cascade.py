from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrank.cascade import Cascade
from genrank.engines.base import ScoreRequest, ScoreResult, Stop, never
from genrank.errors import EngineError, InputError
from genrank.reranker import Reranker
from genrank.testing import OracleEngine, ScriptedEngine
from genrank.types import Candidate, Listing, Query, Ranking, Request

TITLES = [f"title {i}" for i in range(6)]


def _ids(ranking: Ranking) -> list[str]:
    return [item.listing_id for item in ranking]


def _stage(odds: Sequence[float], decoding: Any = "pointwise", **options: Any) -> Reranker:
    """A reranker whose scores have these log-odds, by candidate."""
    if decoding in ("inline", "listwise"):
        options = {"passes": 1} | options
    return Reranker(engine=OracleEngine({str(i): x for i, x in enumerate(odds)}), decoding=decoding, **options)


FIRST = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_second_stage_ranks_the_first_few_again() -> None:
    cascade = Cascade(_stage(FIRST), _stage([9.0, 9.0, 9.0, 3.5, 1.0, 2.0], "inline"), top=3)
    ranking = cascade.rerank("query", TITLES)
    assert _ids(ranking) == ["3", "5", "4", "2", "1", "0"]
    assert [item.rank for item in ranking] == [1, 2, 3, 4, 5, 6]
    assert [item.source_rank for item in ranking] == [4, 6, 5, 3, 2, 1]
    # inline reads two answers for yes and two for no, of which the oracle gives all but one of the yes the score 0
    assert ranking[0].score == pytest.approx((math.exp(3.5) + 1) / (math.exp(3.5) + 3))
    scores = [item.score for item in ranking]
    assert scores == sorted(scores, reverse=True)


def test_added_scores_are_the_mean_of_the_log_odds() -> None:
    first, second = _stage(FIRST), _stage([0, 0, 0, 3.5, 1.0, 2.0], "inline")
    alone = {item.listing_id: item.score for item in first.rerank("query", TITLES)}
    again = {item.listing_id: item.score for item in second.rerank("query", TITLES)}
    ranking = Cascade(first, second, top=3, scores="add").rerank("query", TITLES)
    assert _ids(ranking) == ["5", "3", "4", "2", "1", "0"]

    def odds(score: float) -> float:
        return math.log(score / (1 - score))

    for item in ranking[:3]:
        assert odds(item.score) == pytest.approx((odds(alone[item.listing_id]) + odds(again[item.listing_id])) / 2)


def test_a_written_order_can_be_the_second_stage() -> None:
    cascade = Cascade(_stage(FIRST), _stage([0, 0, 0, 2.0, 3.0, 1.0], "listwise"), top=3)
    assert _ids(cascade.rerank("query", TITLES)) == ["4", "3", "5", "2", "1", "0"]


def test_both_stages_are_in_the_provenance() -> None:
    first, second = _stage(FIRST), _stage(FIRST, "inline")
    provenance = Cascade(first, second, top=4).rerank("query", TITLES).provenance
    alone = first.rerank("query", TITLES).provenance
    assert provenance.then
    assert (provenance.decoding, provenance.then.decoding) == ("pointwise", "inline")
    assert (provenance.windows, provenance.then.windows) == (6, 1)
    assert provenance.tokens == alone.tokens + provenance.then.tokens
    assert provenance.seconds >= provenance.then.seconds > 0
    assert provenance.outcome == "model"


def test_reasons_are_written_for_the_final_order() -> None:
    cascade = Cascade(_stage(FIRST), _stage([0, 0, 0, 9.0, 1.0, 2.0], "inline"), top=3)
    ranking = cascade.rerank("title", TITLES, reasons=2)
    assert [item.reason is not None for item in ranking] == [True, True, False, False, False, False]
    assert ranking.provenance.claims == (ranking.provenance.then and ranking.provenance.then.claims)


def test_where_the_second_stage_fails_the_first_ones_ranking_stays() -> None:
    first = _stage(FIRST)
    dead = Reranker(engine=ScriptedEngine([EngineError("gone")]), decoding="inline")
    ranking = Cascade(first, dead, top=3).rerank("query", TITLES)
    alone = first.rerank("query", TITLES)
    assert [(item.listing_id, item.score) for item in ranking] == [(item.listing_id, item.score) for item in alone]
    assert (ranking.provenance.outcome, ranking.provenance.cause) == ("fallback", "engine-error")
    assert ranking.provenance.why.startswith("the second stage: the engine failed: gone")
    assert ranking.provenance.stand_in == "", "the order is a model's"
    assert ranking.provenance.then
    assert ranking.provenance.then.stand_in == "first-stage"


def test_where_the_first_stage_fails_its_fallback_stands_in() -> None:
    dead = ScriptedEngine([EngineError("gone")])
    first = Reranker(engine=dead, decoding="pointwise", fallback=lambda requests: [FIRST for _ in requests])
    second = Reranker(engine=ScriptedEngine([EngineError("gone")]), decoding="inline")
    ranking = Cascade(first, second, top=3).rerank("query", TITLES)
    assert _ids(ranking) == _ids(_stage(FIRST).rerank("query", TITLES))
    assert (ranking.provenance.outcome, ranking.provenance.stand_in) == ("fallback", "baseline")


def test_reasons_that_the_second_stage_could_not_write_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    second = _stage(FIRST, "inline")

    def gone(*_: object, **__: object) -> None:
        raise EngineError("gone")

    monkeypatch.setattr(second.engine, "write", gone)
    provenance = Cascade(_stage(FIRST), second, top=3).rerank("title", TITLES, reasons=2).provenance
    assert (provenance.outcome, provenance.reasons_missing) == ("repaired", 2)


def test_a_deadline_covers_both_stages() -> None:
    class Slow(OracleEngine):
        def score(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
            while stop.left():
                pass
            return super().score(requests)

    second = _stage(FIRST[::-1], "inline")
    ranking = Cascade(Reranker(engine=Slow({}), decoding="pointwise"), second).rerank("q", TITLES, deadline=0.1)
    assert sorted(_ids(ranking)) == ["0", "1", "2", "3", "4", "5"]
    assert (ranking.provenance.outcome, ranking.provenance.cause) == ("fallback", "deadline")
    assert isinstance(second.engine, OracleEngine)
    assert not second.engine.requests, "there was no time left"


def test_the_deadline_covers_the_request_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def tick() -> float:
        nonlocal now
        now += 1e-6
        return now

    def titles() -> Iterator[str]:
        nonlocal now
        now += 5.0  # reading the candidates takes all the time there is
        yield from TITLES

    monkeypatch.setattr(time, "monotonic", tick)
    cascade = Cascade(_stage(FIRST), _stage(FIRST, "inline"))
    provenance = cascade.rerank("query", cast(Any, titles()), deadline=5.0).provenance
    assert provenance.then
    assert (provenance.cause, provenance.then.cause) == ("deadline", "deadline")
    assert provenance.windows == provenance.then.windows == 0


def test_batches_and_asyncio_give_the_same() -> None:
    cascade = Cascade(_stage(FIRST), _stage([9.0, 9.0, 9.0, 3.5, 1.0, 2.0], "inline"), top=3)
    candidates = tuple(Candidate(Listing(str(i), title)) for i, title in enumerate(TITLES))
    requests = [Request(Query("one", "q1"), candidates), Request(Query("two", "q2"), candidates[:1])]

    async def both() -> tuple[list[Ranking], Ranking]:
        return await cascade.arerank_batch(requests), await cascade.arerank("one", TITLES)

    batch = cascade.rerank_batch(requests, top_k=2)
    awaited, single = asyncio.run(both())
    assert [_ids(ranking) for ranking in batch] == [["3", "5"], ["0"]]
    assert [ranking.query_id for ranking in awaited] == ["q1", "q2"]
    assert _ids(awaited[0])[:2] == _ids(single)[:2] == ["3", "5"]


@given(
    odds=st.lists(st.floats(-30, 30), min_size=1, max_size=12),
    again=st.lists(st.floats(-30, 30), min_size=12, max_size=12),
    top=st.integers(2, 14),
    scores=st.sampled_from(["replace", "add"]),
)
def test_every_candidate_comes_back_once_with_falling_scores(
    odds: list[float], again: list[float], top: int, scores: Any
) -> None:
    cascade = Cascade(_stage(odds), _stage(again, "inline"), top=top, scores=scores)
    ranking = cascade.rerank("query", TITLES[:1] * len(odds))
    assert sorted(_ids(ranking), key=int) == [str(i) for i in range(len(odds))]
    assert [item.rank for item in ranking] == list(range(1, len(odds) + 1))
    found = [item.score for item in ranking]
    assert found == sorted(found, reverse=True)
    assert all(0 <= score <= 1 for score in found)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"first": "smollm2-135m"}, "first"),
        ({"second": None}, "second"),
        ({"top": 1}, "top"),
        ({"top": "10"}, "top"),
        ({"scores": "mean"}, "scores"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named(change: dict[str, Any], field: str) -> None:
    stages: dict[str, Any] = {"first": _stage(FIRST), "second": _stage(FIRST, "inline")}
    with pytest.raises(InputError) as caught:
        Cascade(**(stages | change))
    assert caught.value.field == field


def test_scores_that_are_no_log_odds_are_not_added() -> None:
    with pytest.raises(InputError, match="add needs the log-odds of pointwise and inline, and listwise has none"):
        Cascade(_stage(FIRST), _stage(FIRST, "listwise"), scores="add")


def test_more_reasons_than_the_second_stage_ranks_are_refused() -> None:
    cascade = Cascade(_stage(FIRST), _stage(FIRST, "inline"), top=2)
    with pytest.raises(InputError, match="at most top=2 items, got 3; raise top"):
        cascade.rerank("query", TITLES, reasons=3)


def test_closing_closes_both() -> None:
    with Cascade(_stage(FIRST), _stage(FIRST, "inline")) as cascade:
        pass
    with pytest.raises(EngineError, match="the reranker is closed"):
        cascade.rerank("query", TITLES)


def test_a_fingerprint_covers_both_stages() -> None:
    found = [
        Cascade(_stage(FIRST), _stage(FIRST, "inline")),
        Cascade(_stage(FIRST, seed=1), _stage(FIRST, "inline")),
        Cascade(_stage(FIRST), _stage(FIRST, "inline", seed=1)),
        Cascade(_stage(FIRST), _stage(FIRST, "inline"), top=5),
        Cascade(_stage(FIRST), _stage(FIRST, "inline"), scores="add"),
    ]
    assert len({cascade.fingerprint for cascade in found}) == len(found)
    assert Cascade(_stage(FIRST), _stage(FIRST, "inline")).fingerprint == found[0].fingerprint
