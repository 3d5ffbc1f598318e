"""A checked permutation, parsing one from a model's text, and comparing several.

Places are 0-based. A permutation's ``order[i]`` is the old place of the item that now stands at place ``i``.
"""

from __future__ import annotations

import bisect
import re
import string
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from genrank.errors import InputError, OutputError

IDENTIFIERS = string.ascii_uppercase + string.ascii_lowercase
"""Names for the candidates of a window, in this order; each must be one token."""

NUMBERS = tuple(str(number) for number in range(1, 100))
"""The same for templates that number their candidates; many tokenizers have one token only for 1 to 9."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Permutation:
    """An order of ``n`` items, each place exactly once.

    Attributes:
        order: Old places, best first; a bijection of ``range(n)``.

    Raises:
        InputError: When `order` is not a bijection of ``range(len(order))``.
    """

    order: tuple[int, ...]

    def __post_init__(self) -> None:
        n = len(self.order)
        seen = bytearray(n)
        for place in self.order:
            if not 0 <= place < n or seen[place]:
                problem = "repeated" if 0 <= place < n else f"outside 0..{n - 1}"
                raise InputError(f"not a permutation of {n} items: {place} is {problem}", field="order")
            seen[place] = 1

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order)

    @classmethod
    def identity(cls, n: int) -> Permutation:
        """The order that leaves ``n`` items where they are."""
        return cls(tuple(range(n)))

    @classmethod
    def from_scores(cls, scores: Sequence[float]) -> Permutation:
        """The order by falling score; equal scores keep their places' order.

        Args:
            scores: ``[n]``, none of them NaN.
        """
        return cls(tuple(sorted(range(len(scores)), key=lambda place: -scores[place])))

    def apply(self, items: Sequence[T]) -> list[T]:
        """The items in this order.

        Raises:
            InputError: When there are not as many items as places.
        """
        if len(items) != len(self.order):
            raise InputError(f"{len(items)} items for a permutation of {len(self.order)}", field="items")
        return [items[place] for place in self.order]

    def inverse(self) -> Permutation:
        """The order that undoes this one: its ``order[p]`` is the new place of the item that was at ``p``."""
        inverse = [0] * len(self.order)
        for new, old in enumerate(self.order):
            inverse[old] = new
        return Permutation(tuple(inverse))


@dataclass(frozen=True, slots=True)
class Parsed:
    """An order read from a model's text.

    Attributes:
        permutation: A complete order.
        repeated: Identifiers dropped because they had come before.
        missing: Identifiers that the text left out; they come last, in their old order.
    """

    permutation: Permutation
    repeated: int = 0
    missing: int = 0

    @property
    def repaired(self) -> bool:
        """Whether anything had to be repaired."""
        return bool(self.repeated or self.missing)


def parse(text: str, identifiers: Sequence[str]) -> Parsed:
    """Read an order from a model's answer.

    Identifiers count only in square brackets (``[B] > [A]``) or, if the text has none in brackets, as part of a chain
    (``B > A``, ``B, A``, or one on each line). A letter or a number inside a sentence is text, not a candidate.
    Full-width forms are read as ASCII.

    Args:
        text: Anything at all.
        identifiers: ``[n]`` distinct names, in the candidates' order.

    Returns:
        A permutation of ``range(n)``, with what had to be repaired.

    Raises:
        OutputError: When no identifier can be found.
        InputError: When `identifiers` are empty or not distinct.
    """
    if not identifiers or len(set(identifiers)) != len(identifiers):
        raise InputError("must be distinct and at least one", field="identifiers")
    places = {identifier: place for place, identifier in enumerate(identifiers)}
    text = unicodedata.normalize("NFKC", text)
    names = "|".join(re.escape(name) for name in sorted(identifiers, key=len, reverse=True))
    found = re.findall(rf"\[\s*({names})\s*\]", text)
    if not found:
        one = rf"(?<![^\W_])(?:{names})(?![^\W_])"
        separator = r"[ \t]*(?:[>,;|=]|->|\r?\n)[ \t]*"
        chains = re.findall(rf"{one}(?:{separator}{one})+", text)
        chain = max(chains, key=len, default="")
        if not chain and text.strip() in places:
            chain = text.strip()
        found = re.findall(one, chain)
    if not found:
        shown = text if len(text) <= 80 else text[:77] + "..."
        raise OutputError(f"no identifier of {identifiers[0]}..{identifiers[-1]} in the answer {shown!r}")
    order = list(dict.fromkeys(places[name] for name in found))
    missing = sorted(set(places.values()) - set(order))
    return Parsed(Permutation((*order, *missing)), repeated=len(found) - len(order), missing=len(missing))


def kendall_tau(one: Sequence[int], other: Sequence[int]) -> float:
    """Kendall's tau-a between two orders of the same items, -1 (reversed) to 1 (equal).

    ``tau = 1 - 4 * discordant / (n * (n - 1))``; 1 for fewer than two items.

    Args:
        one: ``[n]`` items, best first, each once.
        other: ``[n]`` the same items in another order.
    """
    n = len(one)
    if n < 2:
        return 1.0
    place = {item: i for i, item in enumerate(other)}
    seen: list[int] = []
    discordant = 0
    for item in one:
        at = bisect.bisect(seen, place[item])
        discordant += len(seen) - at
        seen.insert(at, place[item])
    return 1.0 - 4.0 * discordant / (n * (n - 1))


def mean_tau(orders: Sequence[Sequence[int]]) -> float | None:
    """Mean Kendall's tau over all pairs of orders; None for fewer than two (arXiv 2310.07712 merges such orders)."""
    pairs = [(a, b) for i, a in enumerate(orders) for b in orders[:i]]
    return sum(kendall_tau(a, b) for a, b in pairs) / len(pairs) if pairs else None
