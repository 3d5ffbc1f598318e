from __future__ import annotations

import itertools

import pytest

from genrank.decoding import listwise
from genrank.decoding.checks import Scored
from genrank.engines.base import PermuteRequest
from genrank.errors import OutputError
from genrank.prompting.renderer import AnswerTokens, Prompt
from genrank.testing import ScriptedEngine

ANSWER = AnswerTokens(identifiers=(10, 11, 12, 13), between=(20, 21), yes=(), no=())
PROMPT = Prompt(ids=(1, 2, 3), reads=(), listing_ids=("a", "b", "c"), cuts={})


def _decode(engine: ScriptedEngine, prompts: list[Prompt]) -> list[Scored | None]:
    return listwise.read(prompts, ANSWER, listwise.ask(prompts, ANSWER).run(engine))


def test_the_score_says_the_place() -> None:
    n = len(PROMPT.listing_ids)
    for order in itertools.permutations(range(n)):
        (answer,) = _decode(ScriptedEngine([order]), [PROMPT])
        assert answer
        assert answer[0] == [(n - order.index(candidate)) / n for candidate in range(n)]


def test_the_order_is_written_with_as_many_identifiers_as_there_are_candidates() -> None:
    engine = ScriptedEngine([(0, 1, 2)])
    _decode(engine, [PROMPT])
    assert engine.requests == [PermuteRequest((1, 2, 3), (10, 11, 12), (20, 21), ("a", "b", "c"))]


def test_what_is_no_permutation_is_told() -> None:
    with pytest.raises(OutputError, match=r"the engine wrote no permutation: .*1 is repeated"):
        _decode(ScriptedEngine([(1, 1, 0)]), [PROMPT])
