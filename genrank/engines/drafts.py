"""Guesses at the next tokens of a text: what followed its last tokens where they stood before (arXiv 2304.04487).

A reason repeats words of the listing, of the query and of the examples. A model checks several guessed tokens in one
pass, nearly as fast as it writes one, and what it would have written itself stands.
"""

from __future__ import annotations

from collections.abc import Iterable

_LENGTHS = (3, 2, 1)  # tokens that are looked up, the most telling first


class Draft:
    """A text that grows, and guesses at how it goes on.

    Args:
        ids: Its first tokens.
    """

    def __init__(self, ids: Iterable[int]) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # the place after the last time that these tokens stood before
        self.add(ids)

    def add(self, ids: Iterable[int]) -> None:
        """Append tokens."""
        for token in ids:
            place = len(self._ids)
            for length in _LENGTHS:
                if length <= place:
                    self._after[tuple(self._ids[place - length :])] = place
            self._ids.append(token)

    def guess(self, most: int) -> list[int]:
        """At most `most` tokens that may come next; none where the last token is new."""
        for length in _LENGTHS:
            place = self._after.get(tuple(self._ids[-length:]))
            if place is not None:
                return self._ids[place : place + most]
        return []
