"""What a catalogue's listings can be filtered by: categories, brands and the values of attributes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, cast

from genrank.search.bm25 import Bm25, tokenise
from genrank.search.filters import value_parts
from genrank.text.clean import clean
from genrank.types import Listing

Path = tuple[str, ...]
"""A category, from the widest to the narrowest."""

_VOTERS = 20  # listings that say which category a text means

Search = Callable[[str], Iterable[tuple[Sequence[str], float]]]
"""Finds the categories and scores of the listings nearest to a text."""


@dataclass(frozen=True, slots=True)
class Facet:
    """An attribute of the listings in a category, with the values that it has there.

    Attributes:
        name: Such as ``season``.
        values: ``{value: listings}``, the most frequent first.
    """

    name: str
    values: Mapping[str, int]


class Vocabulary:
    """The values that a query can be understood in, all of them the catalogue's own.

    Args:
        categories: ``{path: listings}``.
        brands: ``{name: listings}``.
        facets: By category; a value such as ``gas, electric`` counts as both its parts.
        search: Finds listings for a text: gives their categories and scores, best first.
        words: ``{word: listings}`` of titles, brands, categories and attributes.
        currencies: ``{currency: listings}``.
    """

    def __init__(
        self,
        *,
        categories: Mapping[Path, int],
        brands: Mapping[str, int],
        facets: Mapping[Path, Sequence[Facet]],
        search: Search,
        words: Mapping[str, int],
        currencies: Mapping[str, int],
    ) -> None:
        self.categories: dict[Path, int] = dict(categories)
        self.brands: dict[str, int] = dict(brands)
        self.facets: dict[Path, tuple[Facet, ...]] = {path: tuple(some) for path, some in facets.items()}
        self.words: dict[str, int] = dict(words)
        self.currencies: dict[str, int] = dict(currencies)
        self._search = search
        self._brands: dict[str, list[tuple[list[str], str]]] = defaultdict(list)  # words and names, by the first word
        for name in self.brands:
            if found := tokenise(name):
                self._brands[found[0]].append((found, name))
        self._values = {value.lower() for some in self.facets.values() for facet in some for value in facet.values}

    @classmethod
    def of(cls, listings: Iterable[Listing], search: Search | None = None) -> Self:
        """The vocabulary of some listings, read once.

        Args:
            listings: The catalogue.
            search: See `Vocabulary`; by default BM25 over these listings, in memory.
        """
        listings = listings if search else list(listings)
        categories, brands = Counter[Path](), Counter[str]()
        words, currencies = Counter[str](), Counter[str]()
        facets: dict[Path, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
        for listing in listings:
            path = tuple(clean(part) for part in listing.category)
            if path:
                categories[path] += 1
            if listing.brand:
                brands[clean(listing.brand)] += 1
            if listing.price and listing.price.currency:
                currencies[listing.price.currency] += 1
            for name, value in listing.attributes.items():
                for part in value_parts(value):
                    facets[path][clean(name)][part] += 1
            text = " ".join([listing.title, listing.brand, *path, *listing.attributes, *listing.attributes.values()])
            words.update(set(tokenise(text)))
        return cls(
            categories=categories,
            brands=brands,
            facets={path: [_facet(name, counts) for name, counts in some.items()] for path, some in facets.items()},
            search=search or _by_bm25(cast(list[Listing], listings)),
            words=words,
            currencies=currencies,
        )

    def likely_categories(self, text: str) -> dict[Path, float]:
        """The categories of the listings that a text finds, with the sums of their scores, best first."""
        votes: dict[Path, float] = defaultdict(float)
        for path, score in self._search(text):
            if path and score > 0:
                votes[tuple(clean(part) for part in path)] += score
        return dict(sorted(votes.items(), key=lambda one: -one[1]))

    def is_value(self, text: str) -> bool:
        """Whether an attribute has this value in some listing; letter case does not matter."""
        return text.lower() in self._values

    def brands_in(self, text: str) -> list[str]:
        """The brands whose whole name stands in a text, the longest first."""
        found = tokenise(text)
        named = {
            name: len(words)
            for at, first in enumerate(found)
            for words, name in self._brands.get(first, ())
            if found[at : at + len(words)] == words
        }
        return sorted(named, key=lambda name: (-named[name], name))

    def facets_of(self, paths: Iterable[Path]) -> list[Facet]:
        """The facets of the listings in some categories, or in categories below them."""
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        wanted = list(paths)
        for path, some in self.facets.items():
            if any(path[: len(one)] == one for one in wanted):
                for facet in some:
                    counts[facet.name].update(facet.values)
        return [_facet(name, values) for name, values in counts.items()]


def _by_bm25(listings: Sequence[Listing]) -> Search:
    index = Bm25(listings, stem=True)
    categories = {listing.listing_id: listing.category for listing in listings}
    return lambda text: [(categories[found], score) for found, score in index.search(text, _VOTERS).items()]


def _facet(name: str, counts: Counter[str]) -> Facet:
    return Facet(name, dict(counts.most_common()))
