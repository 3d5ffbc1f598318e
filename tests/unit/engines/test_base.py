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
)
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
