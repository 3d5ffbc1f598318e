"""Constrained choices have the probabilities that decoding under a mask would have."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrank.engines.base import ScoreRequest, Stop
from genrank.errors import EngineError, InputError
from genrank.search.understanding import Choice, choose
from genrank.testing import ScriptedEngine

TOKENS = range(1, 6)
END = 0


def score_of(before: Sequence[int], token: int) -> float:
    """Any fixed function of a token and the tokens before it."""
    return math.sin(7.0 * token + sum((place + 1) * one for place, one in enumerate(before))) * 3


def reading_engine() -> ScriptedEngine:
    def answer(request: object) -> list[list[float]]:
        assert isinstance(request, ScoreRequest)
        return [[score_of(request.ids[: read + 1], token) for token in request.targets] for read in request.reads]

    return ScriptedEngine(answer)


def masked_probability(ids: Sequence[int], answers: Sequence[Sequence[int]], answer: Sequence[int]) -> float:
    """By writing the answer token by token, each among the tokens that some answer allows."""
    probability = 1.0
    for length, token in enumerate(answer):
        allowed = {one[length] for one in answers if list(one[:length]) == list(answer[:length]) and len(one) > length}
        weights = {one: math.exp(score_of([*ids, *answer[:length]], one)) for one in allowed}
        probability *= weights[token] / sum(weights.values())
    return probability


answers = st.lists(st.lists(st.sampled_from(TOKENS), max_size=4).map(lambda ids: (*ids, END)), min_size=1, max_size=8)


@given(st.lists(st.tuples(st.lists(st.sampled_from(TOKENS), min_size=1, max_size=3), answers), max_size=3))
def test_probabilities_are_those_of_masked_decoding(prompts: list[tuple[list[int], list[tuple[int, ...]]]]) -> None:
    found, _ = choose(reading_engine(), [Choice(ids, some) for ids, some in prompts])
    for (ids, some), scores in zip(prompts, found, strict=True):
        assert [math.exp(one) for one in scores] == pytest.approx([masked_probability(ids, some, one) for one in some])
        distinct = dict(zip(some, scores, strict=True))
        assert math.fsum(math.exp(one) for one in distinct.values()) == pytest.approx(1.0)


def test_one_call_reads_all_branches() -> None:
    engine = reading_engine()
    choose(engine, [Choice([9], [(1, 2, END), (1, 3, END), (4, END)]), Choice([8], [(1, END), (2, END)])])
    assert engine.calls == 1
    # the branch after 1 is read on the way from the first one, so each choice takes one prompt
    assert [request.ids for request in engine.requests] == [(9, 1), (8,)]


def test_a_single_answer_is_certain_and_not_read() -> None:
    engine = reading_engine()
    assert choose(engine, [Choice([9], [(1, 2, END)])])[0] == [[0.0]]
    assert not engine.requests


@pytest.mark.parametrize("some", [[], [()], [(1,), (1, 2)]])
def test_answers_that_cannot_be_told_apart_are_refused(some: list[tuple[int, ...]]) -> None:
    with pytest.raises(InputError, match="answers"):
        Choice([9], some)


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_scores_that_are_not_numbers_are_the_engines_fault(score: float) -> None:
    engine = ScriptedEngine(lambda request: [[score] * len(request.targets)])  # type: ignore[union-attr]
    with pytest.raises(EngineError, match="not numbers"):
        choose(engine, [Choice([9], [(1, END), (2, END)])])


def test_a_stopped_engine_gives_no_half_answer() -> None:
    stop = Stop()
    stop.cancel()
    with pytest.raises(EngineError, match="stopped"):
        choose(reading_engine(), [Choice([9], list(itertools.product((1, 2), (END,))))], stop=stop)
