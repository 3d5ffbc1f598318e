"""Whatever is added and removed, the index holds what a dict would, and a filtered search is a search filtered."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genrank.search.bm25 import listing_text, tokenise
from genrank.search.dense import Vectors
from genrank.search.filters import Filters, value_parts
from genrank.search.index import Index
from genrank.types import Listing, Price

WORDS = ["red", "dress", "dresses", "mug", "连衣裙", "c++", "\U0001f457", "\x00", "\ud800", '"']
texts = st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join)
parts = st.sampled_from(["A", "B", "AB", "a, B", "\ud800", "1:A"])
listings = st.builds(
    Listing,
    listing_id=st.sampled_from(["a", "b", "c", "d'", '"e"']),
    title=texts.map(lambda text: f"mug {text}"),
    description=texts,
    brand=st.just("") | parts,
    category=st.lists(parts, max_size=3).map(tuple),
    price=st.none() | st.builds(Price, st.sampled_from([0, 5, 9.99, 1e300]), st.sampled_from(["", "EUR", "CNY"])),
    attributes=st.dictionaries(parts, st.just("") | parts, max_size=2),
    in_stock=st.none() | st.booleans(),
    seller_id=st.just("") | parts,
)
steps = st.lists(
    st.tuples(st.just("add"), st.lists(listings, max_size=4))
    | st.tuples(st.just("remove"), st.lists(st.sampled_from(["a", "b", "d'", "x", "a\0"]), max_size=3)),
    max_size=6,
)
filters = st.builds(
    Filters,
    price_min=st.none() | st.sampled_from([0, 5]),
    price_max=st.none() | st.sampled_from([5, 9.99]),
    currency=st.none() | st.sampled_from(["EUR", "CNY"]),
    category=st.lists(parts, max_size=2).map(tuple),
    brand=st.none() | parts,
    in_stock=st.none() | st.booleans(),
    attributes=st.dictionaries(parts, st.just("") | parts, max_size=1),
    seller_id=st.none() | parts,
    without_words=st.lists(st.sampled_from(["red", "red dress", "连衣裙", "c++", "\x00"]), max_size=2).map(tuple),
    without_ids=st.frozensets(st.sampled_from(["a", "b", "zz"]), max_size=2),
)


def encode(asked: Sequence[str]) -> Vectors:
    return np.array([[1 + text.count(word) for word in WORDS[:5]] for text in asked], dtype=np.float32)


def meets(listing: Listing, wanted: Filters) -> bool:
    def said(listing: Listing, name: str) -> set[str]:
        value = listing.attributes.get(name, "")
        return {value, *value_parts(value)}

    def words(text: str) -> set[str]:
        return set(tokenise(text, stem=True))

    amount = listing.price.amount if listing.price else None
    return (
        (wanted.price_min is None or (amount is not None and amount >= wanted.price_min))
        and (wanted.price_max is None or (amount is not None and amount <= wanted.price_max))
        and (wanted.currency is None or (listing.price is not None and listing.price.currency == wanted.currency))
        and listing.category[: len(wanted.category)] == wanted.category
        and wanted.brand in (None, listing.brand)
        and wanted.seller_id in (None, listing.seller_id)
        and wanted.in_stock in (None, listing.in_stock)
        and all(value and value in said(listing, name) for name, value in wanted.attributes.items())
        and not any(words(w) and words(w) <= words(listing_text(listing)) for w in wanted.without_words)
        and listing.listing_id not in wanted.without_ids
    )


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(steps, filters)
def test_an_index_is_a_dict_that_can_be_searched(done: list[tuple[str, list[Any]]], wanted: Filters) -> None:
    model: dict[str, Listing] = {}
    with tempfile.TemporaryDirectory() as folder, Index.create(folder, encoder=encode) as index:
        for step, values in done:
            if step == "add":
                last = {one.listing_id: one for one in values}
                changed = [one for listing_id, one in last.items() if model.get(listing_id) != one]
                assert index.add(values) == changed
                for one in changed:  # a changed listing is now the last one
                    model.pop(one.listing_id, None)
                    model[one.listing_id] = one
            else:
                assert index.remove(values) == len({one for one in values if one in model})
                for one in values:
                    model.pop(one, None)
            index.search("mug", k=1)  # vectors are read in between
        assert len(index) == len(model)
        assert list(index) == list(model.values())
        assert index.get(list(model)) == list(model.values())
        expected = {one.listing_id for one in model.values() if meets(one, wanted)}
        for mode in ("text", "dense", "fused"):
            everything = index.search("mug", mode=mode, k=50)
            assert {one.listing.listing_id for one in everything} == set(model)  # each title has the word
            filtered = index.search("mug", filters=wanted, mode=mode, k=50)
            assert {one.listing.listing_id for one in filtered} == expected
            if mode != "fused":  # ranks in the filtered list decide that order
                kept = [one.listing for one in everything if one.listing.listing_id in expected]
                assert [one.listing for one in filtered] == kept
