"""The promises of what comes after ranking: variety and business rules."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any, get_args

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from genrank.blending import standardised
from genrank.search.diversity import Floats, dpp, mmr
from genrank.search.feedback.estimates import ClickEstimates, Looks
from genrank.search.pipeline import with_estimates
from genrank.search.rules import AtLeast, AtMost, Rules, apply_rules
from genrank.types import Decoding, Listing, Provenance, Query, RankedItem, Ranking


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[float], Floats, float, int]:
    """Scores, vectors some of which are copies, the knob, and how many places."""
    n = draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    vectors = rng.normal(size=(n, draw(st.integers(1, 10)))) + draw(st.sampled_from([0.0, 1.0]))
    for place in range(n):
        if draw(st.booleans()):
            vectors[place] = vectors[draw(st.integers(0, n - 1))] * draw(st.sampled_from([1.0, 3.0, 0.0]))
    scores = draw(st.lists(st.floats(-1e300, 1e300), min_size=n, max_size=n))
    return scores, vectors, draw(st.floats(0, 1)), draw(st.integers(1, 10))


@given(cases())
def test_every_place_comes_once_and_no_variety_is_the_order_of_the_scores(case: Any) -> None:
    scores, vectors, variety, top_k = case
    by_score = sorted(range(len(scores)), key=lambda i: -scores[i])
    for method in (mmr, dpp):
        order = method(scores, vectors, variety=variety, top_k=top_k)
        assert sorted(order) == list(range(len(scores)))
        assert order[0] == by_score[0], "the best listing stays first"
        rest = order[top_k:]
        assert rest == [place for place in by_score if place in rest]
        assert method(scores, vectors, variety=0, top_k=top_k) == by_score


@given(cases())
def test_mmr_keeps_to_its_formula(case: Any) -> None:
    scores, vectors, variety, top_k = case
    relevance = standardised(scores)

    def cosine(one: int, other: int) -> float:
        lengths = np.linalg.norm(vectors[one]) * np.linalg.norm(vectors[other])
        return float(vectors[one] @ vectors[other] / lengths) if lengths else 0.0

    order = mmr(scores, vectors, variety=variety, top_k=top_k)
    for step in range(min(top_k, len(order))):
        above, below = order[:step], order[step:]
        values = [
            (1 - variety) * relevance[i] - variety * max((cosine(i, j) for j in above), default=0.0) for i in below
        ]
        assert values[0] >= max(values) - 1e-9


BRANDS = st.sampled_from(["", "Acme", "Bond", "Cott"])
SELLERS = st.sampled_from(["", "s1", "s2"])
IDS = st.integers(0, 11).map("p{}".format)
PLACES = st.integers(1, 14)
RANKINGS = st.lists(st.tuples(BRANDS, SELLERS, st.sampled_from([True, False, None])), max_size=10).map(
    lambda rows: Ranking(
        "q",
        tuple(
            RankedItem(Listing(f"p{i}", "x", brand=brand, seller_id=seller, in_stock=stock), i + 1, 1 / (i + 2), i + 1)
            for i, (brand, seller, stock) in enumerate(rows)
        ),
    )
)
CAPS = st.builds(AtMost, by=st.just("brand"), most=st.integers(0, 3), top=PLACES)
FLOORS = st.builds(AtLeast, by=st.just("seller"), least=st.integers(1, 3), top=PLACES, values=st.just(("s1",)))
PINS = st.dictionaries(IDS, PLACES, max_size=4)


@st.composite
def rules(draw: st.DrawFn) -> Rules:
    pinned = draw(PINS)
    return Rules(
        in_stock=draw(st.booleans()),
        at_most=tuple(draw(st.lists(CAPS, max_size=2))),
        at_least=tuple(draw(st.lists(FLOORS, max_size=2))),
        pinned=pinned,
        buried=tuple(key for key in draw(st.lists(IDS, max_size=3)) if key not in pinned),
    )


@given(RANKINGS, rules())
def test_nothing_is_lost_and_every_rule_holds_or_is_reported(ranking: Ranking, rules: Rules) -> None:
    ruled, report = apply_rules(ranking, rules)
    assert sorted(item.listing_id for item in ruled) == sorted(item.listing_id for item in ranking)
    assert [item.rank for item in ruled] == list(range(1, len(ruled) + 1))
    assert all(one.score >= other.score for one, other in itertools.pairwise(ruled))
    broken = {conflict.rule for conflict in report.conflicts}
    at = {item.listing_id: item.rank for item in ruled}
    assert "pinned" in broken or all(at[key] == rank for key, rank in rules.pinned.items() if key in at)
    for i, cap in enumerate(rules.at_most):
        counts = Counter(item.listing.brand for item in ruled[: cap.top] if item.listing.brand)
        assert (f"at_most[{i}]" in broken) == any(count > cap.most for count in counts.values())
    for i, floor in enumerate(rules.at_least):
        count = sum(item.listing.seller_id == "s1" for item in ruled[: floor.top])
        assert (f"at_least[{i}]" in broken) == (count < floor.least)
    levels = [
        2 if item.listing_id in rules.buried else int(rules.in_stock and item.listing.in_stock is False)
        for item in ruled
        if item.listing_id not in rules.pinned
    ]
    assert levels == sorted(levels), "in stock, then out of stock, then buried"
    assert Counter(levels)[2] == report.buried
    assert Counter(levels)[1] == report.out_of_stock


KEYS = [f"l{i}" for i in range(12)]
SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=10).map(lambda some: sorted(some, reverse=True))
LOOKS = st.dictionaries(
    st.sampled_from(KEYS), st.builds(Looks, st.floats(0, 1e6), st.floats(0, 1e6) | st.just(0.0)), max_size=12
)


@given(
    scores=SCORES,
    decoding=st.sampled_from(["", *get_args(Decoding)]),
    here=LOOKS,
    elsewhere=LOOKS,
    prior=st.floats(0.01, 1e4),
    weight=st.floats(0, 1),
)
def test_clicks_move_only_what_was_looked_at(
    scores: list[float], decoding: Any, here: Any, elsewhere: Any, prior: float, weight: float
) -> None:
    items = (RankedItem(Listing(KEYS[i], "title"), i + 1, score, i + 1) for i, score in enumerate(scores))
    ranking = Ranking("q", tuple(items), Provenance(decoding=decoding))
    ids = [item.listing_id for item in ranking]
    estimates = ClickEstimates({"dress": here, "mug": elsewhere}, prior=prior)
    found = with_estimates(ranking, Query("dress"), estimates, weight)
    assert sorted(item.listing_id for item in found) == sorted(ids)
    after = [item.score for item in found]
    assert after == sorted(after, reverse=True)
    assert all(0 <= score <= 1 for score in after)
    unknown = [key for key in ids if key not in here or not here[key].examined]
    assert [item.listing_id for item in found if item.listing_id in unknown] == unknown
    if len(unknown) == len(ids):
        assert found is ranking
    assert with_estimates(ranking, Query("never asked"), estimates, weight) is ranking
    assert [item.listing_id for item in with_estimates(ranking, Query("dress"), estimates, 1.0)] == ids
