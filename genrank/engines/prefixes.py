"""Finds prompts that begin with the same tokens, and decides when computing these once pays off."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass


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
