"""The promises of the design, tried on many made-up inputs: how many, tests/conftest.py says."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from genrank import (
    BudgetError,
    Candidate,
    EngineError,
    Interaction,
    Listing,
    OutputError,
    Price,
    Query,
    Request,
    Reranker,
    Template,
    load_template,
)
from genrank.engines.base import PermuteRequest, ScoreRequest
from genrank.permutation import IDENTIFIERS, parse
from genrank.prompting.renderer import Renderer
from genrank.testing import AnyRequest, OracleEngine, ScriptedEngine, WordTokenizer
from genrank.text.clean import clean

# any text, lone surrogates, controls and right-to-left marks included, and often what a hostile seller would write
scripts = st.one_of(
    st.text(max_size=40),
    st.text(alphabet=st.characters(categories=["Lo", "Cf", "Cc", "Cs", "So", "Mn"]), max_size=40),
    st.sampled_from(
        ["连衣裙 夏季 韩版", "[A] > [B]", "<|im_end|>", "{query}", "فستان صيفي", "ワンピース", "👩‍👩‍👧 shoes", "\x00"]
    ),
    st.text(max_size=8).map(lambda text: text * 300),
)
EVENTS: tuple[Any, ...] = ("view", "click", "cart", "purchase", "rating")


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """A request whose texts are dealt from a few drawn ones: drawing each would take minutes."""
    texts = draw(st.lists(scripts, min_size=3, max_size=7))
    number = draw(st.floats(0, 5))

    def text(i: int) -> str:
        return texts[i % len(texts)]

    def listing(name: str, i: int) -> Listing:
        return Listing(
            f"{name}{i}",
            "x" + text(i),
            description=text(i + 1),
            brand=text(i + 2),
            category=(text(i + 3),),
            price=Price(number * i, "CNY") if i % 2 else None,
            attributes={text(i + 4): text(i + 5)},
            rating=number if i % 3 else None,
        )

    candidates = tuple(Candidate(listing("l", i)) for i in range(draw(st.integers(1, 12))))
    history = tuple(Interaction(EVENTS[i], listing("h", i)) for i in range(draw(st.integers(0, 4))))
    return Request(Query("x" + text(6), "q1"), candidates, history)


# what an engine may answer, right or wrong: true orders and scores, too few, NaN, repeated places, an outage
@st.composite
def engines(draw: st.DrawFn) -> ScriptedEngine:
    kind = draw(st.sampled_from(["oracle", "random", "random", "broken"]))
    data = random.Random(draw(st.integers(0, 2**32)))
    if kind == "oracle":
        return OracleEngine({f"l{i}": float(data.randrange(4)) for i in range(12)})
    fault = draw(st.sampled_from(["nan", "short", "repeat", "down"])) if kind == "broken" else ""

    def answer(request: AnyRequest) -> Any:
        broken = fault and data.random() < 0.5
        if broken and fault == "down":
            return EngineError("the engine is gone")
        if isinstance(request, ScoreRequest):
            rows = [[data.uniform(-50, 50) for _ in request.targets] for _ in request.reads]
            if broken and fault == "nan":
                rows[-1][-1] = data.choice([math.nan, math.inf])
            return rows[:-1] if broken and fault == "short" else rows
        if isinstance(request, PermuteRequest):
            order = list(range(len(request.identifiers)))
            data.shuffle(order)
            if broken and fault == "repeat":
                order[0] = order[-1] + (1 if len(order) == 1 else 0)
            return order[:-1] if broken and fault == "short" else order
        return data.choice(["It is red. And more.", "", "好看。", "\x00", "no end"])

    return ScriptedEngine(answer)


@given(
    request=requests(),
    engine=engines(),
    decoding=st.sampled_from(["pointwise", "inline", "first-token", "listwise"]),
    strategy=st.sampled_from(["single", "sliding"]),
    window=st.integers(2, 6),
    stride=st.integers(1, 5),
    passes=st.integers(1, 3),
    reasons=st.integers(0, 2),
)
def test_every_candidate_comes_back_exactly_once(
    request: Request, engine: ScriptedEngine, decoding: Any, strategy: Any, window: int, stride: int, passes: int,
    reasons: int,
) -> None:  # fmt: skip
    assume(stride < window)
    windows = {"strategy": strategy, "window": window, "stride": stride, "passes": passes}
    reranker = Reranker(engine=engine, decoding=decoding, **({} if decoding == "pointwise" else windows))
    (ranking,) = reranker.rerank_batch([request], reasons=reasons)
    ids = [item.listing_id for item in ranking.items]
    assert sorted(ids) == sorted(candidate.listing.listing_id for candidate in request.candidates)
    assert [item.rank for item in ranking.items] == list(range(1, len(ids) + 1))
    scores = [item.score for item in ranking.items]
    assert all(0 <= score <= 1 for score in scores)
    assert scores == sorted(scores, reverse=True)
    provenance = ranking.provenance
    assert (provenance.outcome == "fallback") == bool(provenance.why) == (provenance.stand_in == "first-stage")
    assert provenance.reasons_missing == sum(repair.startswith("no reason") for repair in provenance.repairs)
    if provenance.outcome == "fallback" and provenance.windows == 0:
        assert [item.source_rank for item in ranking.items] == [item.rank for item in ranking.items]


@given(request=requests(), seed=st.integers(0, 99), prompt=st.sampled_from(["pointwise", "pointwise-query-first"]))
def test_pointwise_does_not_depend_on_the_candidates_order(request: Request, seed: int, prompt: str) -> None:
    def judge(asked: AnyRequest) -> Any:  # by all of the prompt's tokens
        assert isinstance(asked, ScoreRequest)
        return [[random.Random(f"{seed} {asked.ids}").gauss(), *[0.0] * (len(asked.targets) - 1)]]

    reranker = Reranker(engine=ScriptedEngine(judge), decoding="pointwise", prompt=prompt)
    shuffled = list(request.candidates)
    random.Random(seed).shuffle(shuffled)
    ranking = reranker.rerank(request.query, request.candidates, request.history)
    other = reranker.rerank(request.query, shuffled, request.history)
    assert {item.listing_id: item.score for item in ranking} == {item.listing_id: item.score for item in other}
    if len({item.score for item in ranking}) == len(ranking):  # equal scores keep the order they came in
        assert [item.listing_id for item in ranking] == [item.listing_id for item in other]


@given(
    request=requests(),
    scores=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=12, max_size=12),
    engine=engines(),
    decoding=st.sampled_from(["pointwise", "inline", "first-token", "listwise"]),
    weight=st.floats(0, 1),
)
def test_a_blend_keeps_every_candidate_and_falling_scores(
    request: Request, scores: list[float], engine: ScriptedEngine, decoding: Any, weight: float
) -> None:
    candidates = tuple(replace(one, score=score) for one, score in zip(request.candidates, scores, strict=False))
    (ranking,) = Reranker(engine=engine, decoding=decoding, blend=weight).rerank_batch(
        [Request(request.query, candidates, request.history)]
    )
    assert sorted(item.listing_id for item in ranking) == sorted(one.listing.listing_id for one in candidates)
    found = [item.score for item in ranking]
    assert all(0 <= score <= 1 for score in found)
    assert found == sorted(found, reverse=True)
    assert ranking.provenance.blend == (None if ranking.provenance.outcome == "fallback" else weight)


pieces = st.sampled_from([*"ABCDE[]>, \n.x1", "[A]", " > ", "Ａ"])


@given(text=st.text(max_size=200) | st.lists(pieces).map("".join), n=st.integers(1, 6))
def test_any_text_parses_into_a_bijection_or_is_refused(text: str, n: int) -> None:
    identifiers = list(IDENTIFIERS[:n])
    try:
        parsed = parse(text, identifiers)
    except OutputError:
        return
    assert sorted(parsed.permutation) == list(range(n))
    assert 0 <= parsed.missing < n


@given(order=st.integers(1, 52).flatmap(lambda n: st.permutations(range(n))))
def test_a_right_answer_parses_to_itself(order: list[int]) -> None:
    names = IDENTIFIERS[: len(order)]
    parsed = parse(" > ".join(f"[{names[place]}]" for place in order), list(names))
    assert list(parsed.permutation) == order
    assert not parsed.repaired


TEMPLATES = [load_template("inline"), load_template("listwise"), load_template("pointwise")]


@given(
    request=requests(),
    budget=st.integers(1, 600),
    template=st.sampled_from(TEMPLATES),
    chat=st.booleans(),
)
def test_the_token_budget_holds(request: Request, budget: int, template: Template, chat: bool) -> None:
    renderer = Renderer(template, WordTokenizer(chat=chat))
    decoding = template.decodings[0]
    candidates = request.candidates[:1] if decoding == "pointwise" else request.candidates

    def render(max_tokens: int) -> int:
        prompt = renderer.render(request.query, candidates, request.history, max_tokens=max_tokens, decoding=decoding)
        assert len(prompt.listing_ids) == len(candidates)
        assert all(count >= 0 for count in prompt.cuts.values())
        return len(prompt.ids)

    try:
        assert render(budget) <= budget
    except BudgetError as error:
        assert error.least > budget
        assert render(error.least) <= error.least
        with pytest.raises(BudgetError):
            render(error.least - 1)


@given(text=scripts)
def test_clean_text_is_one_line_of_utf8_and_stays_clean(text: str) -> None:
    cleaned = clean(text)
    cleaned.encode("utf-8")
    assert cleaned == clean(cleaned)
    assert len(cleaned.splitlines()) <= 1
