"""A shopper's history: its order in time, and which interactions are most useful for a search."""

from __future__ import annotations

import functools
import heapq
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise

from genrank.text.words import searchable, words
from genrank.types import Interaction, Listing, Query

EVENT_WORDS = {"view": "viewed", "click": "clicked", "cart": "put in cart", "purchase": "bought", "rating": "rated"}

_WEIGHTS = {"purchase": 1.0, "cart": 0.6, "click": 0.4, "view": 0.2}
_TITLE_CHARS = 1000  # how much of a title is searched for the query's words
_MOST_WORDS_SOUGHT = 24  # for a longer query no bounds are computed


def time_order(history: Sequence[Interaction]) -> Sequence[int]:
    """The places of the interactions in `history`, oldest first: ``[n]``, 0-based.

    A time without a zone is UTC. An interaction without a time is placed halfway between the nearest ones before and
    after it in the list that have one; at an end of the list it gets the time of the nearest one. Interactions with the
    same time keep the list's order, or, if the list mostly runs from new to old, the reverse. If no interaction has a
    time, the list is assumed to be oldest first.
    """
    times = [interaction.time for interaction in history]
    if not any(times):
        return range(len(history))
    stamps = _fill_gaps([None if time is None else _seconds(time) for time in times])
    if all(one <= other for one, other in pairwise(stamps)):
        return range(len(history))
    steps = sum((one > other) - (one < other) for one, other in pairwise(stamps))
    places = range(len(history))
    return sorted(reversed(places) if steps > 0 else places, key=stamps.__getitem__)


def in_time_order(history: Sequence[Interaction]) -> Sequence[Interaction]:
    """The interactions, oldest first; see `time_order`."""
    places = time_order(history)
    return history if isinstance(places, range) else [history[place] for place in places]


def usefulness(history: Sequence[Interaction], query: Query, candidates: Sequence[Listing]) -> list[float]:
    """How useful each interaction is for a search, ``[len(history)]``, 0 to 3.

    The sum of three parts from 0 to 1: how recent it is (``(i + 1) / n``), how close to the search (1 if it is in the
    category of a candidate, or else the share of the query's words in its title), and what the shopper did: a purchase
    counts 1, a rating 0.6 to 0.8 depending on its value, cart 0.6, click 0.4, view 0.2.

    Args:
        history: Oldest first.
        query: The query.
        candidates: The listings of the window.
    """
    scores = Usefulness(history, query)
    categories = {last_category(listing) for listing in candidates} - {""}
    return [scores.of(i, categories) for i in range(len(history))]


class Usefulness:
    """What `usefulness` needs from a history and a query, computed once for all windows of a request.

    Args:
        history: Oldest first.
        query: The query.
    """

    def __init__(self, history: Sequence[Interaction], query: Query) -> None:
        n = len(history)
        self._titles = [interaction.listing.title[:_TITLE_CHARS] for interaction in history]
        self._categories = [
            path[-1].casefold() if (path := interaction.listing.category) else "" for interaction in history
        ]
        self._lateness = [(i + 1) / n for i in range(n)]
        self._weights = [_WEIGHTS.get(interaction.event) or event_weight(interaction) for interaction in history]
        self._wanted = set(words(query.text))
        self._shares: dict[int, float] = {}

    def of(self, i: int, categories: Collection[str]) -> float:
        """How useful interaction `i` is to a window of candidates in these `categories` (see `last_category`)."""
        near = 1.0 if self._categories[i] in categories else self._share(i)
        return self._lateness[i] + near + self._weights[i]

    def best(self, count: int, categories: Collection[str]) -> list[int]:
        """The `count` most useful interactions, best first, and the latest first among equals; see `of`."""
        # ordered by an upper bound of the usefulness, so that only titles near the top are split into words
        near: Iterable[float] = self._most_shares
        if categories:
            near = (
                1.0 if category in categories else most
                for category, most in zip(self._categories, self._most_shares, strict=True)
            )
        bounds = [late + most + weight for late, most, weight in zip(self._lateness, near, self._weights, strict=True)]
        found: list[int] = []
        scored: list[tuple[float, int]] = []  # a heap, the best first
        for i in sorted(range(len(bounds) - 1, -1, -1), key=bounds.__getitem__, reverse=True):
            while scored and scored[0] < (-bounds[i], -i):
                found.append(-heapq.heappop(scored)[1])
            if len(found) >= count:
                break
            heapq.heappush(scored, (-self.of(i, categories), -i))
        found += [-minus_i for _, minus_i in sorted(scored)]
        return found[:count]

    def _share(self, i: int) -> float:
        """The share of the query's words in a title."""
        if i not in self._shares:
            shared = self._wanted.intersection(words(self._titles[i]))
            self._shares[i] = len(shared) / max(1, len(self._wanted))
        return self._shares[i]

    @functools.cached_property
    def _most_shares(self) -> Sequence[float]:
        """Upper bounds of `_share`, ``[n]``: every word of a title is also in the title's searchable text."""
        n = len(self._titles)
        if len(self._wanted) > _MOST_WORDS_SOUGHT:
            return [1.0] * n
        joined = searchable("\n".join(self._titles))
        titles = joined.split("\n")
        if len(titles) != n:  # a title of several lines
            titles = [searchable(title) for title in self._titles]
        found = [0] * n
        for word in self._wanted:
            if word in joined:
                found = [count + (word in title) for count, title in zip(found, titles, strict=True)]
        return [count / len(self._wanted) for count in found] if any(found) else [0.0] * n


def last_category(listing: Listing) -> str:
    """The narrowest category of a listing, in the form used for comparisons; empty if it has none."""
    return listing.category[-1].casefold() if listing.category else ""


def event_weight(interaction: Interaction) -> float:
    """The weight of an event's kind, 0 to 1; see `usefulness`."""
    if interaction.event == "rating":
        return 0.6 + 0.2 * (2.5 if interaction.rating is None else interaction.rating) / 5
    return _WEIGHTS[interaction.event]


def _seconds(time: datetime) -> float:
    """Seconds since 1970."""
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _fill_gaps(stamps: Sequence[float | None]) -> list[float]:
    """Each number, or the mean of the nearest known ones before and after it; at least one must be known."""
    before = _carry_on(stamps)
    after = _carry_on(stamps[::-1])[::-1]
    filled = []
    for one, other in zip(before, after, strict=True):
        known = [stamp for stamp in (one, other) if stamp is not None]
        filled.append(sum(known) / len(known))
    return filled


def _carry_on(stamps: Sequence[float | None]) -> list[float | None]:
    """Each number, or the nearest known one before it."""
    last: float | None = None
    return [last := stamp if stamp is not None else last for stamp in stamps]
