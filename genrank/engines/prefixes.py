"""Finds prompts that begin with the same tokens, and decides when computing these once pays off."""

from __future__ import annotations

import bisect
import itertools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Group:
    """Prompts that share a prefix.

    Attributes:
        members: Indices of the prompts, 0-based.
        prefix: Number of first tokens that all of them share; 0 if nothing is shared.
    """

    members: tuple[int, ...]
    prefix: int


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many first tokens two prompts share."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def share(prompts: Sequence[Sequence[int]], limits: Sequence[int], least: int, cost: float = 0.0) -> list[Group]:
    """Group prompts so that computing each group's prefix once saves the most.

    A group saves ``(members - 1) * prefix - cost * tokens after the prefix``. The closest prompts are grouped first;
    two groups are merged if the merged group saves at least as much as the two do.

    Args:
        prompts: ``[b]`` prompts, each ``[prompt_tokens]``.
        limits: ``[b]`` the longest prefix of each prompt, in tokens.
        least: The fewest tokens a group must save, or else its members are not grouped; at least 1.
        cost: The extra cost of a token after a prefix, as a fraction of a token's cost without one.

    Returns:
        Groups that together hold each prompt once; the prompts that share nothing are in one last group.
    """
    order = sorted(range(len(prompts)), key=lambda i: tuple(prompts[i]))
    links = [min(common_prefix(prompts[a], prompts[b]), limits[a], limits[b]) for a, b in itertools.pairwise(order)]

    def spared(group: Group) -> float:
        if len(group.members) == 1:
            return 0
        behind = sum(len(prompts[i]) - group.prefix for i in group.members)
        return (len(group.members) - 1) * group.prefix - cost * behind

    groups = {place: Group((prompt,), 0) for place, prompt in enumerate(order)}  # by its first place in `order`
    first = list(range(len(order)))  # the first place of the group that ends at a place of `order`
    for link in sorted(range(len(links)), key=lambda i: -links[i]):
        left, right = groups[first[link]], groups[link + 1]
        merged = Group(left.members + right.members, links[link])
        if spared(merged) >= max(least, spared(left) + spared(right)):
            del groups[link + 1]
            groups[first[link]] = merged
            first[link + len(right.members)] = first[link]
    alone = tuple(sorted(group.members[0] for group in groups.values() if not group.prefix))
    return [group for group in groups.values() if group.prefix] + ([Group(alone, 0)] if alone else [])


class Kept(Generic[V]):
    """A least-recently-used cache of values computed for prompts, looked up by the longest common prefix.

    May be used from several threads.

    Args:
        room: The most that all values together may take, in the unit of `put`'s `size`.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._taken = 0
        self._values: OrderedDict[tuple[int, ...], tuple[V, int]] = OrderedDict()  # the latest used last
        self._sorted: list[tuple[int, ...]] = []
        self._lock = threading.Lock()

    def put(self, ids: tuple[int, ...], value: V, size: int) -> None:
        """Keep a prompt's value, dropping the least recently used ones; a value that is too large is not kept."""
        with self._lock:
            if ids in self._values:
                self._drop(ids)
            if size > self._room:
                return
            while self._taken + size > self._room:
                self._drop(next(iter(self._values)))
            self._values[ids] = value, size
            self._taken += size
            bisect.insort(self._sorted, ids)

    def find(self, ids: tuple[int, ...]) -> tuple[tuple[int, ...], V] | None:
        """The kept prompt that shares the most first tokens with `ids`, and its value; None if nothing is kept."""
        with self._lock:
            place = bisect.bisect(self._sorted, ids)
            # in sorted order, a prompt shares the most tokens with one of its neighbours
            near = self._sorted[max(place - 1, 0) : place + 1]
            if not near:
                return None
            key = max(near, key=lambda kept: common_prefix(kept, ids))
            self._values.move_to_end(key)
            return key, self._values[key][0]

    def _drop(self, ids: tuple[int, ...]) -> None:
        self._taken -= self._values.pop(ids)[1]
        self._sorted.remove(ids)
