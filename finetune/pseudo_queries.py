"""Queries that nobody asked: drawn from the words of a catalogue, to be labelled by a teacher."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from genrank.data.dataset import Dataset, DatasetQuery
from genrank.experiment.splits import query_digest
from genrank.search.bm25 import tokenise
from genrank.text.clean import clean, fold
from genrank.text.injection import neutralise
from genrank.types import Listing, Query

_TRIES = 50  # for each query that is wanted
_MOST_WORDS = 4
_LONGEST = 40  # characters of a value that a shopper might type
_SEVERAL = set(",;/+，、；")


def draw_queries(dataset: Dataset, count: int, taken: Iterable[str], seed: int = 0) -> list[DatasetQuery]:
    """Queries made of listings' titles, categories, brands and attributes, all different.

    Text that speaks to a model (`genrank.text.injection.neutralise`) never goes into a query. With a greater `count`
    the first queries stay the same.

    Args:
        dataset: Whose listings.
        count: How many; fewer if the catalogue does not have the words for that many.
        taken: Texts of queries that must not be drawn, in whatever order, case and number.
        seed: Seed of what is drawn.

    Returns:
        Queries of the split ``train`` without a history; their ids are hashes of their texts.
    """
    chance = random.Random(f"pseudo-queries {seed}")
    listings = list(dataset.listings.values())
    known = {frozenset[str](), *map(query_words, taken)}
    found: list[DatasetQuery] = []
    for _ in range(_TRIES * count if listings else 0):
        text = chance.choice(_FORMS)(chance.choice(listings), chance)
        if (words := query_words(text)) in known or not any(word.isalpha() for word in words):
            continue
        known.add(words)
        found.append(DatasetQuery(Query(text, f"p-{query_digest(text)[:16]}"), "train"))
        if len(found) == count:
            break
    return found


def query_words(text: str) -> frozenset[str]:
    """The key by which queries count as the same: their words, whatever the order, case, accents and English plural."""
    return frozenset(tokenise(fold(clean(text)), stem=True))


def _title(listing: Listing, chance: random.Random) -> str:
    """Some words of the title, one after the other; of Chinese ones the long words, not those inside them."""
    words = [word for word in tokenise(neutralise(listing.title)) if word.isascii() or len(word) > 1]
    count = chance.randint(1 if any(not word.isascii() for word in words) else 2, _MOST_WORDS)
    start = chance.randint(0, max(0, len(words) - count))
    chosen = words[start : start + count]
    whole = [word for word in chosen if word.isascii() or not any(word != one and word in one for one in chosen)]
    return " ".join(dict.fromkeys(whole))


def _kind(listing: Listing, _: random.Random) -> str:
    """The narrowest category."""
    return _said(listing.category[-1]) if listing.category else ""


def _branded(listing: Listing, chance: random.Random) -> str:
    """The brand and the category."""
    return _together(_said(listing.brand), _kind(listing, chance))


def _featured(listing: Listing, chance: random.Random) -> str:
    """The value of an attribute and the category; no value that lists several."""
    values = [said for value in listing.attributes.values() if (said := _said(value)) and not _SEVERAL & set(said)]
    return _together(chance.choice(values) if values else "", _kind(listing, chance))


_FORMS: tuple[Callable[[Listing, random.Random], str], ...] = (_title, _title, _kind, _branded, _featured)


def _said(value: str) -> str:
    said = neutralise(value).lower()
    return said if len(said) <= _LONGEST else ""


def _together(one: str, other: str) -> str:
    return f"{one} {other}" if one and other and one not in other and other not in one else ""
