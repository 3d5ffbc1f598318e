from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

from genrank.cascade import Cascade
from genrank.cli.streaming import Line, Summary, rerank_lines
from genrank.errors import BudgetError, DataFormatError, EngineError
from genrank.fallback import Fallback
from genrank.reranker import Reranker
from genrank.testing import OracleEngine, ScriptedAnswer, ScriptedEngine
from genrank.types import Candidate, Listing, Query, Ranking, Request


def _right(number: int, candidates: int = 2, query: str = "query") -> Line:
    made = tuple(Candidate(Listing(f"q{number}-{i}", f"title {i}")) for i in range(candidates))
    return number, Request(Query(query, f"q{number}"), made)


def _backwards(requests: Sequence[Request]) -> list[list[float]]:
    return [[float(place) for place in range(len(request.candidates))] for request in requests]


def _wrong(number: int) -> Line:
    return number, DataFormatError("in.jsonl", number, "one JSON object", "half of one")


def _rerank(
    reranker: Reranker | Cascade, lines: Iterable[Line], **options: Any
) -> tuple[list[tuple[int, Request, Ranking]], Summary, list[DataFormatError]]:
    summary = Summary()
    reported: list[DataFormatError] = []
    answers = list(rerank_lines(reranker, "in.jsonl", lines, summary, report=reported.append, **options))
    return answers, summary, reported


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
def test_right_lines_are_ranked_and_wrong_ones_reported_in_order(batch: int) -> None:
    lines = [_right(1), _wrong(2), _right(3), _right(4), _wrong(5), _wrong(6), _right(7)]
    grades = {f"q{number}-1": 3.0 for number in (1, 3, 4, 7)}
    answers, summary, reported = _rerank(Reranker(engine=OracleEngine(grades)), lines, batch=batch)
    assert [request.query.query_id for _, request, _ in answers] == ["q1", "q3", "q4", "q7"]
    assert [number for number, _, _ in answers] == [1, 3, 4, 7]
    for _, request, ranking in answers:
        assert ranking.query_id == request.query.query_id
        assert [item.listing_id for item in ranking.items] == [f"{ranking.query_id}-1", f"{ranking.query_id}-0"]
    assert [error.line for error in reported] == [2, 5, 6]
    assert (summary.answered, summary.wrong, summary.outcomes) == (4, 3, {"model": 4})


def test_a_request_that_cannot_be_ranked_does_not_cost_the_others() -> None:
    with pytest.raises(BudgetError) as caught:
        Reranker(engine=OracleEngine({}), decoding="inline", max_prompt_tokens=1).rerank(
            "query", ["title 0", "title 1"]
        )
    reranker = Reranker(engine=OracleEngine({}), decoding="inline", max_prompt_tokens=caught.value.least)
    answers, summary, (error,) = _rerank(reranker, [_right(1), _right(2, candidates=15), _right(3)])
    assert [ranking.query_id for _, _, ranking in answers] == ["q1", "q3"]
    assert (error.path, error.line) == ("in.jsonl", 2)
    assert "expected a request that can be ranked, found max_prompt_tokens: " in str(error)
    assert (summary.answered, summary.wrong) == (2, 1)


def test_options_reach_the_reranker() -> None:
    answers, _, _ = _rerank(
        Reranker(engine=OracleEngine({})), [_right(1, candidates=4, query="title")], top_k=2, reasons=1
    )
    assert [bool(item.reason) for item in answers[0][2].items] == [True, False]


def test_no_more_than_a_batch_is_read_ahead() -> None:
    read: list[int] = []

    def lines() -> Iterator[Line]:
        for number in range(1, 10):
            read.append(number)
            yield _right(number)

    stream = rerank_lines(
        Reranker(engine=OracleEngine({})), "in.jsonl", lines(), Summary(), report=lambda _: None, batch=3
    )
    next(stream)
    assert read == [1, 2, 3]


def test_a_batch_is_one_call_of_the_engine() -> None:
    engine = OracleEngine({})
    _rerank(Reranker(engine=engine), [_right(number) for number in range(1, 8)], batch=4)
    assert engine.calls == 2


def test_the_summary_is_right_when_the_stream_breaks_off() -> None:
    summary = Summary()

    def lines() -> Iterator[Line]:
        yield _right(1)
        yield _wrong(2)
        raise KeyboardInterrupt

    stream = rerank_lines(Reranker(engine=OracleEngine({})), "x", lines(), summary, report=lambda _: None, batch=1)
    with pytest.raises(KeyboardInterrupt):
        list(stream)
    assert (summary.answered, summary.wrong) == (1, 1)


def test_the_summary_in_words() -> None:
    assert str(Summary(3, 0)) == "3 answered, 0 wrong"
    engine = ScriptedEngine([EngineError("gone")])
    _, summary, _ = _rerank(Reranker(engine=engine), [_right(1), _wrong(2)])
    assert str(summary) == "1 answered, 1 wrong (1 in the order given)"
    summary.outcomes["repaired"] = 2
    assert str(summary) == "1 answered, 1 wrong (1 in the order given, 2 repaired)"


@pytest.mark.parametrize(
    ("ranked", "fallback", "words"),
    [
        (0, None, "in the order given"),
        (1, None, "partly in the order given"),
        (0, _backwards, "in the fallback's order"),
        (1, _backwards, "partly in the fallback's order"),
    ],
)
def test_the_summary_says_whose_order_stands_in(ranked: int, fallback: Fallback | None, words: str) -> None:
    script: list[ScriptedAnswer] = [*[[0, 1]] * ranked, EngineError("gone")]
    reranker = Reranker(engine=ScriptedEngine(script), decoding="listwise", window=2, stride=1, fallback=fallback)
    _, summary, _ = _rerank(reranker, [_right(1, candidates=4)])
    assert str(summary) == f"1 answered, 0 wrong (1 {words})"


def test_the_summary_tells_a_second_stage_that_failed_from_a_model_that_did() -> None:
    cascade = Cascade(Reranker(engine=OracleEngine({})), Reranker(engine=ScriptedEngine([EngineError("gone")])))
    _, summary, _ = _rerank(cascade, [_right(1)])
    assert str(summary) == "1 answered, 0 wrong (1 not wholly ranked again by the second stage)"
