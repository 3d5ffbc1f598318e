from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from genrank.engines.base import (
    Engine,
    PermuteRequest,
    PermuteResult,
    ScoreRequest,
    ScoreResult,
    TextRequest,
    TextResult,
    check_dtype,
    check_lengths,
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
    with pytest.raises(InputError, match="must be auto, bfloat16, float16 or float32, got 'int3'"):
        check_dtype("int3")
