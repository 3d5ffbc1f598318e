from __future__ import annotations

from math import exp, log

import pytest

from genrank.decoding import inline
from genrank.decoding.checks import Scored
from genrank.engines.base import ScoreRequest
from genrank.prompting.renderer import AnswerTokens, Prompt
from genrank.testing import ScriptedEngine

ANSWER = AnswerTokens(identifiers=(), between=(), yes=(30, 31), no=(40,))


def _decode(engine: ScriptedEngine, prompts: list[Prompt]) -> list[Scored | None]:
    return inline.read(prompts, ANSWER, inline.ask(prompts, ANSWER).run(engine))


def _prompt(n: int) -> Prompt:
    return Prompt(ids=tuple(range(n + 1)), reads=tuple(range(1, n + 1)), listing_ids=tuple(map(str, range(n))), cuts={})


def _score(*rows: list[float]) -> list[float]:
    (answer,) = _decode(ScriptedEngine([rows]), [_prompt(len(rows))])
    assert answer
    return answer[0]


def test_the_score_is_the_sigmoid_of_the_log_odds_of_yes() -> None:
    yes, yes_too, no = 1.5, -0.5, 0.7
    odds = log(exp(yes) + exp(yes_too)) - log(exp(no))
    assert _score([yes, yes_too, no]) == pytest.approx([1 / (1 + exp(-odds))])


def test_the_score_is_the_probability_of_yes_among_all_answers_read() -> None:
    probabilities = [0.3, 0.1, 0.2]  # yes, Yes, no
    assert _score([log(p) for p in probabilities]) == pytest.approx([(0.3 + 0.1) / (0.3 + 0.1 + 0.2)])


def test_a_constant_of_a_place_does_not_matter() -> None:
    row = [1.5, -0.5, 0.7]
    assert _score([x + 1000 for x in row], [x - 1000 for x in row]) == pytest.approx(_score(row, row))


def test_far_odds_do_not_overflow() -> None:
    assert _score([1e4, 0.0, 0.0], [-1e4, -1e4, 0.0], [1e308, 0.0, -1e308]) == [1.0, 0.0, 1.0]


def test_each_candidate_is_read_at_its_own_place_for_yes_first_and_then_no() -> None:
    engine = ScriptedEngine([[[0.0] * 3] * 2])
    prompt = _prompt(2)
    _decode(engine, [prompt])
    assert engine.requests == [ScoreRequest(prompt.ids, (1, 2), (30, 31, 40), ("0", "1"))]
