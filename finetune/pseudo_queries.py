"""Queries that nobody asked: drawn from the words of a catalogue, to be labelled by a teacher."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

from finetune.windows import EVENTS, MOST_SEEN
from genrank.data.dataset import Dataset, DatasetQuery
from genrank.experiment.splits import query_digest
from genrank.search.bm25 import tokenise
from genrank.text.clean import clean, fold
from genrank.text.injection import neutralise
from genrank.types import Interaction, Listing, Query

_TRIES = 50  # for each query that is wanted
_MOST_WORDS = 4
_LONGEST = 40  # characters of a value that a shopper might type
_SEVERAL = set(",;/+，、；")


def draw_queries(
    dataset: Dataset, count: int, taken: Iterable[str], seed: int = 0, *, histories: float = 0.0
) -> list[DatasetQuery]:
    """Queries made of listings' titles, categories, brands and attributes, all different.

    Text that speaks to a model (`genrank.text.injection.neutralise`) never goes into a query. With a greater `count`
    the first queries stay the same.

    Args:
        dataset: Whose listings.
        count: How many; fewer if the catalogue does not have the words for that many.
        taken: Texts of queries that must not be drawn, in whatever order, case and number.
        seed: Seed of what is drawn.
        histories: The chance, 0 to 1, that a query gets a history of one to four listings: about half of the kind that
            the query was drawn from, the others any. It changes no query's text.

    Returns:
        Queries of the split ``train``; their ids are hashes of their texts.
    """
    chance = random.Random(f"pseudo-queries {seed}")
    listings = list(dataset.listings.values())
    known = {frozenset[str](), *map(query_words, taken)}
    found: list[DatasetQuery] = []
    for _ in range(_TRIES * count if listings else 0):
        form = chance.choice(_FORMS)
        source = chance.choice(listings)
        text = form(source, chance)
        if (words := query_words(text)) in known or not any(word.isalpha() for word in words):
            continue
        known.add(words)
        query = Query(text, f"p-{query_digest(text)[:16]}")
        luck = random.Random(f"{seed} {query.query_id}")
        past = _history(source, listings, luck) if luck.random() < histories else ()
        found.append(DatasetQuery(query, "train", past))
        if len(found) == count:
            break
    return found


def _history(source: Listing, listings: Sequence[Listing], chance: random.Random) -> tuple[Interaction, ...]:
    """What a shopper may have looked at before searching for something like `source`, but not `source` itself."""
    others = [listing for listing in listings if listing.listing_id != source.listing_id]
    alike = [listing for listing in others if listing.category[:1] == source.category[:1]]
    past = dict[str, Interaction]()
    for _ in range(chance.randint(1, MOST_SEEN) if others else 0):
        listing = chance.choice(alike if alike and chance.random() < 0.5 else others)
        past[listing.listing_id] = Interaction(chance.choice(EVENTS), listing)
    return tuple(past.values())


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
