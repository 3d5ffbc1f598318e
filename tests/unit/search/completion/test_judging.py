"""The model's yes or no about a suggestion."""

from __future__ import annotations

import math

import pytest

from genrank.engines.base import ScoreRequest
from genrank.errors import EngineError
from genrank.search.completion.judging import judge_texts
from genrank.testing import ScriptedEngine, WordTokenizer


def answering(likes: dict[str, float]) -> ScriptedEngine:
    """An engine that says yes with these log-odds, by the text that its prompt holds."""

    def answer(request: object) -> list[list[float]]:
        assert isinstance(request, ScoreRequest)
        prompt = tokenizer.decode(request.ids)
        (odds,) = [odds for text, odds in likes.items() if text in prompt]
        yes = [token.strip() in ("yes", "是") for token in tokenizer.texts(request.targets)]
        assert sum(yes) == 1
        return [[odds if one else 0.0 for one in yes]]

    tokenizer = WordTokenizer()
    return ScriptedEngine(answer, tokenizer=tokenizer)


def test_probabilities_of_yes_in_one_call() -> None:
    engine = answering({"red dress": 2.0, "zzz": -3.0, "连衣裙": 0.5})
    found = judge_texts(engine, ["red dress", "zzz", "连衣裙"])
    assert found == pytest.approx([1 / (1 + math.exp(-odds)) for odds in (2.0, -3.0, 0.5)])
    assert engine.calls == 1
    assert judge_texts(engine, []) == []


def test_a_failing_engine_is_an_error() -> None:
    with pytest.raises(EngineError, match="gone"):
        judge_texts(ScriptedEngine([EngineError("gone")]), ["red dress"])
