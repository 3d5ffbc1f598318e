from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Any

import pytest

from genrank.engines.base import (
    Engine,
    EngineCall,
    PermuteRequest,
    PermuteResult,
    ScoreRequest,
    ScoreResult,
    Stop,
    TextRequest,
    TextResult,
    check_dtype,
    check_lengths,
    never,
    total_tokens,
)
from genrank.errors import EngineError, InputError
from genrank.testing import OracleEngine, ScriptedEngine
from genrank.types import Tokens


@pytest.mark.parametrize(
    "message",
    [
        ScoreRequest((1,), (0,), (2,)),
        ScoreResult([[0.0]], Tokens()),
        PermuteRequest((1,), (2,), ()),
        PermuteResult((0,), Tokens()),
        TextRequest((1,), 5),
        TextResult("a", Tokens()),
    ],
)
def test_what_goes_to_an_engine_and_comes_from_it_is_frozen(message: Any) -> None:
    for field in dataclasses.fields(message):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(message, field.name, None)


@pytest.mark.parametrize("engine", [ScriptedEngine([]), OracleEngine({})], ids=lambda engine: str(engine.name))
def test_the_doubles_keep_the_protocol(engine: Engine) -> None:
    wanted = {name for name in vars(Engine) if not name.startswith("_")}
    assert wanted == {"name", "model", "adapter", "context", "tokenizer", "score", "permute", "write"}
    assert all(hasattr(engine, name) for name in wanted)
    assert (engine.score([]), engine.permute([]), engine.write([])) == ([], [], [])


@pytest.mark.parametrize(
    ("request_", "tokens"),
    [
        (ScoreRequest((1, 2, 3), (2,), (5,)), 3),
        (PermuteRequest((1, 2, 3), (7, 8), (4, 5)), 3 + 2 * 3),
        (TextRequest((1, 2, 3), 5), 8),
    ],
)
def test_a_prompt_and_its_answer_must_fit_the_context(request_: Any, tokens: int) -> None:
    assert total_tokens(request_) == tokens
    check_lengths([request_], tokens, "tiny")
    with pytest.raises(EngineError, match=f"^{tokens} tokens exceed the {tokens - 1} that tiny takes$"):
        check_lengths([request_], tokens - 1, "tiny")


def test_a_dtype_is_one_that_is_known() -> None:
    check_dtype("float16")
    with pytest.raises(InputError, match="must be auto, bfloat16, float16, float32 or int8, got 'int3'"):
        check_dtype("int3")


def test_a_stop_ends_at_its_time_or_when_it_is_cancelled() -> None:
    assert (never(), never.left()) == (False, None)
    soon = Stop(time.monotonic() + 0.02)
    assert 0 < (soon.left() or 0) <= 0.02
    assert not soon()
    time.sleep(0.03)
    assert soon()
    assert soon.left() == 0
    cancelled = Stop()
    cancelled.cancel()
    assert cancelled()
    assert cancelled.left() is None


def test_who_waits_for_a_cancellation_is_called_once() -> None:
    stop, called = Stop(), list[str]()
    with stop.on_cancel(lambda: called.append("before")):
        pass
    with stop.on_cancel(lambda: called.append("during")):
        stop.cancel()
        stop.cancel()
    with stop.on_cancel(lambda: called.append("after")):
        pass
    assert called == ["during", "after"]


def test_an_answer_is_found_by_the_request_itself_not_by_its_value() -> None:
    stop = Stop()
    request, equal = ScoreRequest((1,), (0,), (2,)), ScoreRequest((1,), (0,), (2,))
    stop.publish(request, "answer")
    assert request == equal
    assert (stop.finished(request), stop.finished(equal)) == ("answer", None)
    never.publish(request, "answer")
    assert never.finished(request) is None


def test_a_call_is_made_by_its_kind() -> None:
    engine = ScriptedEngine([[[1.0]], "text"])
    (scored,) = EngineCall("score", [ScoreRequest((1,), (0,), (2,))]).run(engine)
    (written,) = EngineCall("write", [TextRequest((1,), 5)]).run(engine)
    assert (scored.scores, written.text) == ([[1.0]], "text")


def test_what_closes_can_be_used_in_with_and_async_with() -> None:
    async def use() -> None:
        async with ScriptedEngine([]) as engine:
            assert not engine.closed
        assert engine.closed

    asyncio.run(use())
    with ScriptedEngine([]) as engine:
        assert not engine.closed
    assert engine.closed
