from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from genrank.batch.dialects import Requests
from genrank.batch.sources import Row, open_source
from genrank.batch.workers import LocalWorkers, Outcome, Stopping, rank_rows
from genrank.engines.base import ScoreRequest
from genrank.errors import EngineError
from genrank.reranker import Reranker
from genrank.testing import AnyRequest, ScriptedAnswer, ScriptedEngine
from tests.batch_rig import Double, write_lines


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    return list(open_source(str(write_lines(tmp_path / "in.jsonl", 6))).rows())


def _rank(ranker: Reranker, rows: list[Row], **options: Any) -> list[Outcome]:
    return asyncio.run(rank_rows(ranker, Requests(), rows, **options))


def _failing(number: int, error: Exception) -> Reranker:
    """A ranker that fails for one row."""

    def answer(request: AnyRequest) -> ScriptedAnswer:
        if not isinstance(request, ScoreRequest):
            raise TypeError(request)
        if request.listing_ids[0].startswith(f"q{number}-"):
            return error
        return [[1.0, *[0.0] * (len(request.targets) - 1)]]

    return Reranker(engine=ScriptedEngine(answer), decoding="pointwise")


def test_a_row_on_which_a_library_fails_costs_no_other(rows: list[Row]) -> None:
    outcomes = _rank(_failing(2, RuntimeError("out of memory")), rows)
    assert [one.failed for one in outcomes] == [False, False, True, False, False, False]
    assert outcomes[2].line["reason"] == "RuntimeError: out of memory"
    assert outcomes[2].engine_failed


def test_an_order_that_the_model_did_not_make_is_no_answer_unless_it_is_wanted(rows: list[Row]) -> None:
    broken = Reranker(engine=ScriptedEngine(lambda _: EngineError("gone")), decoding="pointwise")
    (outcome,) = _rank(broken, rows[:1])
    assert (outcome.failed, outcome.engine_failed) == (True, True)
    assert "the engine failed: gone" in outcome.line["reason"]
    (kept,) = _rank(broken, rows[:1], keep_fallbacks=True)
    assert not kept.failed
    assert kept.line["provenance"]["outcome"] == "fallback"


def test_rows_that_want_different_options_are_ranked_apart(rows: list[Row]) -> None:
    class Varied(Requests):
        def read(self, row: Row) -> Any:
            return dataclasses.replace(super().read(row), top_k=row.place.number)

    with Double().make() as ranker:
        outcomes = asyncio.run(rank_rows(ranker, Varied(), rows))
    assert [len(one.line["items"]) for one in outcomes] == [1, 2, 3, 3, 3, 3]
    assert [one.line["query_id"] for one in outcomes] == [f"q{number}" for number in range(6)]


def test_a_stop_drops_what_still_runs_within_seconds(rows: list[Row]) -> None:
    stop = Stopping(grace=0.2)
    with Double(pause=60).make() as ranker:
        workers = LocalWorkers(ranker, Requests())
        outcomes = workers.rank(iter([rows[:3], rows[3:]]), stop)
        threading.Timer(0.3, stop.ask).start()
        started = time.monotonic()
        assert list(outcomes) == []
        assert time.monotonic() - started < 30


def test_a_closed_ranker_is_an_error(rows: list[Row]) -> None:
    ranker = Double().make()
    ranker.close()
    with pytest.raises(EngineError, match="closed"):
        _rank(ranker, [*rows])
