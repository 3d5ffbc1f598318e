"""For tests that hold an engine, or a way in, to another: windows of the sample shop, engines that ask both or once."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Any

from genrank import Candidate, Query, Request, sample_shop
from genrank.engines.base import ScoreRequest


def windows(count: int) -> list[Request]:
    """`title_windows` of 1 to 20 listings."""
    chance = random.Random(0)
    return title_windows([chance.randint(1, 20) for _ in range(count)])


def parity_windows() -> list[Request]:
    """Three windows; GENRANK_PARITY_WINDOWS=500 makes it 500, for the figure in docs/results/validity.md."""
    count = os.environ.get("GENRANK_PARITY_WINDOWS")
    return windows(int(count)) if count else title_windows([1, 7, 12])


def title_windows(sizes: Sequence[int], seed: int = 0) -> list[Request]:
    """Random windows of the sample shop's English listings, titles only."""
    chance = random.Random(seed)
    listings = [listing for listing in sample_shop().listings.values() if listing.listing_id.startswith("en-")]
    words = ["running shoes", "coffee", "gift for mum", "case", "warm"]
    return [
        Request(
            Query(chance.choice(words), f"q{i}"),
            tuple(
                Candidate(type(listing)(listing.listing_id, listing.title)) for listing in chance.sample(listings, size)
            ),
        )
        for i, size in enumerate(sizes)
    ]


class Both:
    """Ranks as the reference does, and keeps what the two engines' scores were."""

    def __init__(self, engine: Any, reference: Any) -> None:
        self._engine, self._reference = engine, reference
        self.scored: list[tuple[Any, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reference, name)

    def score(self, requests: Sequence[ScoreRequest], **options: Any) -> Any:
        answers = self._reference.score(requests, **options)
        self.scored += zip(self._engine.score(requests, **options), answers, strict=True)
        return answers


class Once:
    """Asks the engine only for scores that it has not been asked for yet."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._known: dict[tuple[tuple[int, ...], ...], Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def score(self, requests: Sequence[ScoreRequest], **options: Any) -> Any:
        keys = [tuple(map(tuple, (one.ids, one.reads, one.targets))) for one in requests]
        new = {key: one for key, one in zip(keys, requests, strict=True) if key not in self._known}
        answers = self._engine.score(list(new.values()), **options)
        self._known.update((key, found) for key, found in zip(new, answers, strict=True) if found is not None)
        return [self._known.get(key) for key in keys]
