"""BM25 over listings, for the ``bm25`` system and for first stages.

Lucene's variant (`bm25s`): ``sum over query words of idf(w) * tf / (tf + k1 * (1 - b + b * length / mean length))``
with ``idf(w) = ln(1 + (N - n_w + 0.5) / (n_w + 0.5))``.

Scores are rounded to 4 decimals. Ties are ordered by listing id and then made to fall strictly, by at least 0.0001, so
that every tool that reads the run sees the same order.
"""

from __future__ import annotations

import functools
import logging
import math
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from genrank.errors import InputError, MissingExtraError
from genrank.text.words import words
from genrank.types import Listing

TextField = Literal["title", "brand", "category", "attributes", "description"]
FIELDS: tuple[TextField, ...] = ("title", "brand", "category", "attributes", "description")
_STEP = 1e-4
_PLACES = 4


def tokenise(text: str, *, stem: bool = False) -> list[str]:
    """The words of a text as `genrank.text.words.words` finds them, with Chinese cut by jieba.

    jieba runs in search mode: long words also come with the words inside them.

    Args:
        text: Any text.
        stem: Whether to remove English plural endings (the S stemmer: Harman 1991, "How effective is suffixing?").

    Raises:
        MissingExtraError: When the text holds Chinese characters and jieba is not installed.
    """
    found = words(text, cut_han=_cut_chinese)
    return [_singular(word) for word in found] if stem else found


def _singular(word: str) -> str:
    if len(word) < 4 or not word.endswith("s") or word.endswith(("us", "ss")):
        return word
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    return word[:-1]


def _cut_chinese(text: str) -> list[str]:
    return _jieba()(text)


@functools.cache
def _jieba() -> Callable[[str], list[str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jieba imports pkg_resources, which warns
        try:
            import jieba
        except ImportError:
            raise MissingExtraError("jieba", "search") from None
    jieba.setLogLevel(logging.WARNING)
    return cast(Callable[[str], list[str]], jieba.lcut_for_search)


def listing_text(listing: Listing, fields: Collection[str] = FIELDS) -> str:
    """The named fields of a listing as one text.

    Raises:
        InputError: When a name is not in `FIELDS`.
    """
    parts: list[str] = []
    for name in fields:
        match name:
            case "title" | "brand" | "description":
                parts.append(getattr(listing, name))
            case "category":
                parts += listing.category
            case "attributes":
                parts += [f"{key} {value}" for key, value in listing.attributes.items()]
            case _:
                raise InputError(f"no such text field; use {', '.join(FIELDS)}, got {name!r}", field="fields")
    return "\n".join(parts)


class Bm25:
    """An index over some listings."""

    def __init__(
        self,
        listings: Iterable[Listing],
        fields: Collection[str] = FIELDS,
        *,
        stem: bool = False,
        k1: float = 1.2,
        b: float = 0.75,
    ) -> None:
        """Build the index.

        Args:
            listings: The listings to search; word frequencies (idf) and the mean length come from exactly these.
            fields: The fields to read, from `FIELDS`.
            stem: See `tokenise`.
            k1: How quickly further occurrences of a word stop counting; 0 or more.
            b: How much long listings are penalised, 0 to 1.

        Raises:
            InputError: When a field name is wrong, or a listing id repeats.
            MissingExtraError: When bm25s is not installed, or jieba is needed and is not.
        """
        try:
            import bm25s
        except ImportError:
            raise MissingExtraError("bm25s", "search") from None
        self._stem = stem
        self._vocabulary: dict[str, int] = {}
        self._place: dict[str, int] = {}
        documents: list[list[int]] = []
        for listing in listings:
            if listing.listing_id in self._place:
                raise InputError(f"the id {listing.listing_id!r} comes twice", field="listings")
            self._place[listing.listing_id] = len(self._place)
            found = tokenise(listing_text(listing, fields), stem=stem)
            documents.append([self._vocabulary.setdefault(word, len(self._vocabulary)) for word in found])
        self._ids = list(self._place)
        # place of each listing in the order of the ids, for ties
        self._id_order = np.empty(len(self._ids), dtype=np.int64)
        self._id_order[sorted(range(len(self._ids)), key=self._ids.__getitem__)] = np.arange(len(self._ids))
        self._index: Any = None
        if self._vocabulary:
            self._index = bm25s.BM25(method="lucene", k1=k1, b=b)
            corpus = bm25s.tokenization.Tokenized(ids=documents, vocab=self._vocabulary)
            self._index.index(corpus, create_empty_token=False, show_progress=False)

    def scores(self, query: str) -> npt.NDArray[np.float64]:
        """BM25 of each listing, ``[listings]``, in the order of the index; rounded to 4 decimals."""
        found = tokenise(query, stem=self._stem)
        known = [self._vocabulary[word] for word in found if word in self._vocabulary]
        if not known:
            return np.zeros(len(self._ids))
        scores = self._index.get_scores_from_ids(known).astype(np.float64)
        return cast(npt.NDArray[np.float64], np.round(scores, _PLACES))

    def rank(self, query: str, listing_ids: Sequence[str]) -> dict[str, float]:
        """Order some of the listings, best first; all of them are returned.

        Returns:
            ``{listing_id: score}``, scores strictly falling.

        Raises:
            InputError: When a listing is not in the index.
        """
        for listing_id in listing_ids:
            if listing_id not in self._place:
                raise InputError(f"{listing_id!r} is not in the index", field="listing_ids")
        scores = self.scores(query)
        places = np.array([self._place[listing_id] for listing_id in listing_ids], dtype=np.int64)
        return self._ordered(places, scores)

    def search(self, query: str, top: int) -> dict[str, float]:
        """The best listings of the whole index, best first.

        If fewer than `top` listings share a word with the query, others follow in the order of their ids.

        Returns:
            ``{listing_id: score}`` of `top` listings, or of all if there are fewer; scores strictly falling.
        """
        scores = self.scores(query)
        places = np.arange(len(scores))
        if top < len(scores):
            least = np.partition(scores, len(scores) - top)[len(scores) - top]
            places = np.flatnonzero(scores >= least)
        return dict(list(self._ordered(places, scores).items())[:top])

    def _ordered(self, places: npt.NDArray[np.int64], scores: npt.NDArray[np.float64]) -> dict[str, float]:
        order = places[np.lexsort((self._id_order[places], -scores[places]))]
        last = math.inf
        ranked: dict[str, float] = {}
        for place in order:
            last = min(float(scores[place]), round(last - _STEP, _PLACES))
            ranked[self._ids[place]] = last
        return ranked
