"""Whatever a model writes of whatever listing, no claim is left that does not stand in a field."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from genrank.reasons.grounding import MAX_CHARS, Facts, find_claims, ground, named_wishes
from genrank.reasons.lexicon import COLOURS, FEATURES, MATERIALS, PRAISE, UNITS
from genrank.text.clean import clean
from genrank.types import Interaction, Listing, Price, Query

WORDS = sorted({word for group in (*COLOURS, *FEATURES, *MATERIALS, *PRAISE) for word in group})
NUMBERS = [
    f"{number}{gap}{unit}"
    for number in ("2", "1,5", "1/0")
    for gap in ("", " ")
    for table in UNITS.values()
    for unit in table
]
SIGNS = [
    "not",
    "no",
    "不",
    "“",
    "”",
    '"',
    "…",
    ".",
    " · ",
    "$39",
    "39 USD",
    "size",
    "M",
    "you bought",
    "your past",
    "Zara",
    "5/5",
]
phrases = st.lists(
    st.one_of(st.sampled_from(WORDS), st.sampled_from(NUMBERS), st.sampled_from(SIGNS), st.text(max_size=8)), max_size=9
).map(" ".join)
texts = st.one_of(phrases, st.text(max_size=60), phrases.map(lambda text: text * 9))


@st.composite
def facts(draw: st.DrawFn) -> Facts:
    dealt = draw(st.lists(texts, min_size=3, max_size=6))
    offset = draw(st.integers(0, 5))

    def text(i: int) -> str:
        return dealt[(i + offset) % len(dealt)]

    def title(i: int) -> str:
        return text(i) if clean(text(i)).strip("\u200c\u200d ") else "x" + text(i)

    def listing(i: int) -> Listing:
        return Listing(
            f"l{i}",
            title(i),
            description=text(i + 1),
            brand=text(i + 2),
            category=(text(i + 3), text(i + 4)),
            price=draw(st.sampled_from([None, Price(39.0, "USD"), Price(1e300, text(i))])),
            attributes={text(i): text(i + 1), "colour": text(i + 5), "size": text(i + 2)},
            rating=draw(st.sampled_from([None, 4.5])),
            rating_count=draw(st.sampled_from([None, 12])),
            in_stock=draw(st.sampled_from([None, True, False])),
        )

    events: tuple[Any, ...] = ("view", "click", "cart", "purchase", "rating")
    history = [Interaction(event, listing(i), rating=3.0) for i, event in enumerate(draw(st.permutations(events))[:2])]
    return Facts(
        Query(draw(st.sampled_from(["red dress", "红色 连衣裙", "rotes Kleid", "ワンピース", "501", title(1)]))),
        listing(0),
        history,
        [listing(3)],
    )


@given(texts, facts())
def test_what_comes_out_claims_nothing_that_does_not_stand(text: str, facts: Facts) -> None:
    result = ground(text, facts)
    assert [claim for claim in find_claims(result.text, facts) if not claim.fields] == []
    assert len(result.text) <= MAX_CHARS
    assert clean(result.text) == result.text
    assert bool(result.evidence) == bool(result.text)
    if result.rewritten and result.text and facts.language != "other":
        assert named_wishes(result.text, facts) or any("history" in name for name in result.evidence)
    if not result.rewritten:
        assert all(claim.fields for claim in result.claims)


@given(texts, facts())
def test_grounding_twice_keeps_what_it_kept(text: str, facts: Facts) -> None:
    once = ground(text, facts)
    if not once.rewritten:
        again = ground(once.text, facts)
        assert (again.text, again.evidence, again.rewritten) == (once.text, once.evidence, False)
