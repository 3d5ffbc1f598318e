from __future__ import annotations

from math import exp

import pytest

from genrank.decoding import first_token
from genrank.decoding.checks import Scored
from genrank.engines.base import ScoreRequest
from genrank.prompting.renderer import AnswerTokens, Prompt
from genrank.testing import ScriptedEngine

ANSWER = AnswerTokens(identifiers=(10, 11, 12, 13), between=(20,), yes=(), no=())
PROMPT = Prompt(ids=(1, 2, 3), reads=(), listing_ids=("a", "b", "c"), cuts={})


def _decode(engine: ScriptedEngine, prompts: list[Prompt]) -> list[Scored | None]:
    return first_token.read(prompts, ANSWER, first_token.ask(prompts, ANSWER).run(engine))


def _score(*row: float) -> list[float]:
    (answer,) = _decode(ScriptedEngine([[row]]), [PROMPT])
    assert answer
    return answer[0]


def test_the_scores_are_the_softmax_over_the_identifiers() -> None:
    a, b, c = 1.5, -0.5, 0.7
    total = exp(a) + exp(b) + exp(c)
    assert _score(a, b, c) == pytest.approx([exp(a) / total, exp(b) / total, exp(c) / total])


def test_a_constant_does_not_matter_and_nothing_overflows() -> None:
    assert _score(1001.5, 999.5, 1000.7) == pytest.approx(_score(1.5, -0.5, 0.7))
    assert _score(-1e308, 1e308, 0.0) == [0.0, 1.0, 0.0]


def test_the_last_place_is_read_for_as_many_identifiers_as_there_are_candidates() -> None:
    engine = ScriptedEngine([[[0.0] * 3]])
    _decode(engine, [PROMPT])
    assert engine.requests == [ScoreRequest((1, 2, 3), (2,), (10, 11, 12), ("a", "b", "c"))]
