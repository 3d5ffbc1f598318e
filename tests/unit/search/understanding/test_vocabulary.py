"""A vocabulary holds the catalogue's own values."""

from __future__ import annotations

import pytest

pytest.importorskip("bm25s")

from genrank.search.understanding import Vocabulary
from genrank.types import Listing

PANS, POTS = ("Kitchen", "Pans"), ("Kitchen", "Pots")
LISTINGS = [
    Listing(
        "1",
        title="Frying pan",
        category=PANS,
        brand="Stove & Co",
        attributes={"hob": "gas, electric", "size": "1,000 ml"},
    ),
    Listing("2", title="Grill pan", category=PANS, brand="Stove", attributes={"hob": "gas"}),
    Listing("3", title="Soup pot", category=POTS, attributes={"hob": "induction"}),
    Listing("4", title="No category"),
]


def test_facets_are_those_of_a_category_and_below() -> None:
    vocabulary = Vocabulary.of(LISTINGS)
    assert {facet.name: facet.values for facet in vocabulary.facets_of([PANS])} == {
        "hob": {"gas": 2, "electric": 1},
        "size": {"1,000 ml": 1},
    }
    assert {facet.name for facet in vocabulary.facets_of([("Kitchen",)])} == {"hob", "size"}
    assert "induction" in next(iter(vocabulary.facets_of([("Kitchen",)]))).values
    assert vocabulary.facets_of([("Garden",)]) == []


def test_categories_are_found_by_their_listings() -> None:
    found = Vocabulary.of(LISTINGS).likely_categories("a pan")
    assert list(found) == [PANS]
    assert Vocabulary.of(LISTINGS).likely_categories("zebra") == {}


def test_a_search_of_ones_own_finds_them_too() -> None:
    vocabulary = Vocabulary.of(iter(LISTINGS), search=lambda text: [(POTS, 2.0), (PANS, 1.5), (PANS, 1.5), ((), 9.0)])
    assert vocabulary.likely_categories("any") == {PANS: 3.0, POTS: 2.0}


def test_the_longest_brand_in_a_text_comes_first() -> None:
    vocabulary = Vocabulary.of(LISTINGS)
    assert vocabulary.brands_in("pan by stove & co") == ["Stove & Co", "Stove"]
    assert vocabulary.brands_in("stoves") == []


def test_values() -> None:
    vocabulary = Vocabulary.of(LISTINGS)
    assert vocabulary.is_value("Induction")
    assert not vocabulary.is_value("gas, electric")
