from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from genrank.engines.base import EngineCall, ScoreRequest
from genrank.errors import EngineError
from genrank.fallback import Fallback
from genrank.scheduling import Deadline, FallbackCall, Loop, adrive, drive, fallback_seconds
from genrank.testing import AnyRequest, ScriptedAnswer, ScriptedEngine
from genrank.types import Candidate, Listing, Query, Request

SCORE = EngineCall("score", [ScoreRequest((1, 2), (1,), (3,))])
REQUEST = Request(Query("q"), (Candidate(Listing("a", "A")),))


def _later(seconds: float | None) -> Deadline:
    return Deadline(seconds, time.monotonic())


def _drive(loop: Loop[Any], engine: ScriptedEngine, deadline: Deadline) -> Any:
    return drive(loop, engine, deadline)


def _adrive(loop: Loop[Any], engine: ScriptedEngine, deadline: Deadline) -> Any:
    return asyncio.run(adrive(loop, engine, deadline))


BOTH = pytest.mark.parametrize("run", [_drive, _adrive], ids=["sync", "async"])
Run = Callable[[Loop[Any], ScriptedEngine, Deadline], Any]


@BOTH
@pytest.mark.parametrize("deadline", [None, 60.0, math.inf])
def test_a_loop_is_sent_the_answers_to_its_calls_in_turn(run: Run, deadline: float | None) -> None:
    def loop() -> Loop[list[Any]]:
        (first,) = yield SCORE
        scores = yield FallbackCall(lambda requests: [[0.5] for _ in requests], [REQUEST])
        (second,) = yield SCORE
        return [first.scores, scores, second.scores]

    engine = ScriptedEngine([[[1.0]], [[2.0]]])
    assert run(loop(), engine, _later(deadline)) == [[[1.0]], [[0.5]], [[2.0]]]


@BOTH
def test_a_loop_that_calls_nobody(run: Run) -> None:
    def loop() -> Loop[int]:
        yield from ()
        return 5

    assert run(loop(), ScriptedEngine([]), _later(None)) == 5


@BOTH
@pytest.mark.parametrize("deadline", [None, 60.0])
def test_an_engine_error_is_thrown_into_the_loop(run: Run, deadline: float | None) -> None:
    def loop() -> Loop[str]:
        with pytest.raises(EngineError, match="gone"):
            yield SCORE
        (answer,) = yield SCORE
        return str(answer.scores)

    assert run(loop(), ScriptedEngine([EngineError("gone"), [[1.0]]]), _later(deadline)) == "[[1.0]]"


@BOTH
@pytest.mark.parametrize("deadline", [None, 60.0])
def test_other_errors_are_raised_where_the_loop_was_driven(run: Run, deadline: float | None) -> None:
    def loop() -> Loop[None]:
        yield SCORE

    with pytest.raises(ZeroDivisionError, match="a bug"):
        run(loop(), ScriptedEngine([ZeroDivisionError("a bug")]), _later(deadline))


@BOTH
def test_a_hanging_engine_is_told_to_stop_and_its_answers_are_none(run: Run) -> None:
    let_go = threading.Event()

    def hang(request: AnyRequest) -> ScriptedAnswer:
        let_go.wait(30)
        return [[0.0]]

    def loop() -> Loop[Any]:
        return (yield EngineCall("score", [*SCORE.requests, *SCORE.requests]))

    engine = ScriptedEngine(hang)
    threads = threading.active_count()
    started = time.monotonic()
    try:
        assert run(loop(), engine, _later(0.05)) == [None, None]
        assert 0.05 <= time.monotonic() - started < 2, "the engine hangs for 30 s"
    finally:
        let_go.set()
    until = time.monotonic() + 5
    while threading.active_count() > threads and time.monotonic() < until:
        time.sleep(0.01)
    assert len(engine.requests) == 1, "the second request was not begun after the deadline"


def test_a_deadline_says_when_it_has_passed_and_whose_fault_it_is() -> None:
    none, soon = Deadline(None, 0.0), Deadline(0.5, time.monotonic())
    assert (none.passed(), none.patience(), none.blame[0]) == (False, None, "engine-error")
    assert not soon.passed()
    assert soon.blame == ("deadline", "the deadline of 0.5 s passed")
    gone = Deadline(0.5, time.monotonic() - 1)
    assert gone.passed()
    assert 0 < (gone.patience() or 0) < 0.1


@BOTH
@pytest.mark.parametrize("deadline", [None, 60.0])
def test_stop_iteration_out_of_an_engine_is_a_runtime_error_and_hangs_nobody(run: Run, deadline: float | None) -> None:
    def loop() -> Loop[None]:
        yield SCORE

    def raises(_: AnyRequest) -> ScriptedAnswer:
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        run(loop(), ScriptedEngine(raises), _later(deadline))


@pytest.mark.parametrize(("deadline", "seconds"), [(0.01, 0.05), (1.0, 0.25), (4.0, 1.0), (30.0, 2.0)])
def test_a_fallback_has_a_share_of_the_deadline_beyond_it(deadline: float, seconds: float) -> None:
    assert fallback_seconds(deadline) == seconds
    gone = Deadline(deadline, time.monotonic() - 2 * deadline)
    assert gone.fallback_patience() == pytest.approx(seconds)
    assert Deadline(deadline, time.monotonic()).fallback_patience() == pytest.approx(deadline + seconds, abs=0.5)
    assert Deadline(None, 0.0).fallback_patience() is Deadline(math.inf, 0.0).fallback_patience() is None


@BOTH
def test_a_fallback_that_hangs_is_abandoned_and_not_called_again_until_it_ends(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    let_go, called = threading.Event(), []

    def hang(requests: Sequence[Request]) -> list[list[float]]:
        called.append(len(requests))
        let_go.wait(30)
        return [[1.0] for _ in requests]

    def other(requests: Sequence[Request]) -> list[list[float]]:
        return [[2.0] for _ in requests]

    def loop(fallback: Fallback) -> Loop[Any]:
        return (yield FallbackCall(fallback, [REQUEST, REQUEST]))

    def ask(fallback: Fallback) -> Any:
        return run(loop(fallback), ScriptedEngine([]), Deadline(0.2, time.monotonic() - 1))

    try:
        assert ask(hang) == ["it took more than 0.05 s"] * 2
        assert ask(hang) == ["an earlier call of it still runs"] * 2, "nobody waits for it again"
        assert ask(other) == [[2.0]] * 2, "only that one is left alone"
        assert called == [2]
    finally:
        let_go.set()
    until = time.monotonic() + 5
    while ask(hang) != [[1.0]] * 2:
        assert time.monotonic() < until
    assert [record.levelname for record in caplog.records][:2] == ["WARNING"] * 2
