"""What every decoding promises; what only one does stands in the file of its name."""

from __future__ import annotations

import math

import pytest

from genrank.decoding import DECODINGS, Scored
from genrank.engines.base import PermuteResult, ScoreResult, Stop, never
from genrank.errors import EngineError, OutputError
from genrank.prompting.renderer import AnswerTokens, Prompt
from genrank.testing import AnyRequest, OracleEngine, ScriptedAnswer, ScriptedEngine
from genrank.types import Decoding, Tokens

ANSWER = AnswerTokens(identifiers=(10, 11, 12, 13), between=(20,), yes=(30,), no=(40,))
PROMPTS = [
    Prompt(ids=(1, 2, 3, 4, 5), reads=(2, 3, 4), listing_ids=("a", "b", "c"), cuts={}),
    Prompt(ids=(1, 2, 3), reads=(1, 2), listing_ids=("d", "e"), cuts={}),
]
JUDGED: list[ScriptedAnswer] = [[[1.0, 0.0], [0.0, 0.0], [2.0, 0.0]], [[3.0, 0.0], [0.0, 0.0]]]
RIGHT: dict[str, list[ScriptedAnswer]] = {
    "pointwise": JUDGED,
    "inline": JUDGED,
    "first-token": [[[1.0, 0.0, 2.0]], [[3.0, 0.0]]],
    "listwise": [(2, 0, 1), (0, 1)],
}
"""Answers that put c before a before b, and d before e."""


def _decode(decoding: Decoding, engine: ScriptedEngine, *, stop: Stop = never) -> list[Scored | None]:
    decode = DECODINGS[decoding]
    return decode.read(PROMPTS, ANSWER, decode.ask(PROMPTS, ANSWER).run(engine, stop))


@pytest.mark.parametrize("decoding", DECODINGS)
def test_each_prompt_gets_one_score_a_candidate_and_what_it_cost(decoding: Decoding) -> None:
    engine = ScriptedEngine(RIGHT[decoding])
    one, other = _decode(decoding, engine)
    assert one
    assert other
    (first, spent, *_), (second, spent_second, *_) = one, other
    assert 1 >= first[2] > first[0] > first[1] >= 0
    assert 1 >= second[0] > second[1] >= 0
    assert (len(first), len(second)) == (3, 2)
    written = (3, 2) if decoding == "listwise" else (0, 0)
    assert (spent, spent_second) == (Tokens(prompt=5, completion=written[0]), Tokens(prompt=3, completion=written[1]))
    assert engine.calls == 1, "all prompts are one batch"


@pytest.mark.parametrize("decoding", DECODINGS)
def test_the_engine_is_told_the_prompts_tokens_and_listings(decoding: Decoding) -> None:
    engine = OracleEngine({})
    _decode(decoding, engine)
    assert [request.ids for request in engine.requests] == [prompt.ids for prompt in PROMPTS]
    assert [getattr(request, "listing_ids", None) for request in engine.requests] == [p.listing_ids for p in PROMPTS]


@pytest.mark.parametrize("decoding", DECODINGS)
def test_no_prompts_no_answers(decoding: Decoding) -> None:
    assert DECODINGS[decoding].read([], ANSWER, DECODINGS[decoding].ask([], ANSWER).run(ScriptedEngine([]))) == []


@pytest.mark.parametrize(
    ("decoding", "answer"),
    [
        # the second prompt has two candidates
        ("inline", [[3.0, 0.0]]),
        ("inline", [[3.0, 0.0]] * 3),
        ("inline", []),
        ("inline", [[3.0, 0.0], [1.0]]),
        ("inline", [[3.0, 0.0], []]),
        ("inline", [[3.0, 0.0], [1.0, 0.0, 0.0]]),
        ("inline", [[3.0, math.nan], [0.0, 0.0]]),
        ("inline", [[math.inf, 0.0], [0.0, 0.0]]),
        ("inline", [[3.0, 0.0], [0.0, -math.inf]]),
        ("first-token", []),
        ("first-token", [[3.0, 0.0], [3.0, 0.0]]),
        ("first-token", [[3.0]]),
        ("first-token", [[3.0, 0.0, 1.0]]),
        ("first-token", [[math.nan, 0.0]]),
        ("first-token", [[3.0, -math.inf]]),
        ("listwise", ()),
        ("listwise", (0,)),
        ("listwise", (0, 1, 2)),
        ("listwise", (0, 0)),
        ("listwise", (1, 2)),
        ("listwise", (-1, 0)),
    ],
)
def test_an_answer_that_cannot_be_used_is_the_models_fault(decoding: Decoding, answer: ScriptedAnswer) -> None:
    engine = ScriptedEngine([RIGHT[decoding][0], answer])
    with pytest.raises(OutputError):
        _decode(decoding, engine)


class ShortEngine(ScriptedEngine):
    """Forgets the last prompt of every batch."""

    def score(self, requests: object, *, stop: Stop = never) -> list[ScoreResult | None]:
        return [ScoreResult([[0.0, 0.0]] * 3, Tokens())]

    def permute(self, requests: object, *, stop: Stop = never) -> list[PermuteResult | None]:
        return [PermuteResult((0, 1, 2), Tokens())]


@pytest.mark.parametrize("decoding", DECODINGS)
def test_an_engine_that_answers_too_few_prompts(decoding: Decoding) -> None:
    with pytest.raises(OutputError, match="1 answers where 2 were asked for"):
        _decode(decoding, ShortEngine([]))


@pytest.mark.parametrize("decoding", DECODINGS)
def test_an_engine_that_fails_is_no_misbehaving_model(decoding: Decoding) -> None:
    with pytest.raises(EngineError, match="out of memory"):
        _decode(decoding, ScriptedEngine([EngineError("out of memory")]))


@pytest.mark.parametrize("decoding", DECODINGS)
def test_a_prompt_that_was_stopped_has_no_scores(decoding: Decoding) -> None:
    engine, stop = ScriptedEngine(RIGHT[decoding]), Stop()
    answer = engine._answer_to

    def last_one(request: AnyRequest) -> ScriptedAnswer:
        stop.cancel()
        return answer(request)

    engine._answer_to = last_one
    one, other = _decode(decoding, engine, stop=stop)
    assert one
    assert other is None
