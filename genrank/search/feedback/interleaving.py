"""Shows two rankings in one list, so that clicks say which of them shoppers prefer."""

from __future__ import annotations

import random
from collections.abc import Sequence

from genrank.errors import InputError


def team_draft(
    a: Sequence[str], b: Sequence[str], size: int, chance: random.Random | None = None
) -> list[tuple[str, int]]:
    """Interleave two rankings by team draft (Radlinski, Kurup & Joachims 2008, doi 10.1145/1458082.1458092).

    The team with fewer places, or a coin where they are equal, adds its best listing that is not yet there. Once a team
    has nothing left, the other's listings follow.

    Args:
        a: Listing ids of team 0, best first.
        b: Listing ids of team 1, best first.
        size: The most listings, 1 or more.
        chance: Tosses the coins; None takes Python's own generator.

    Returns:
        Listing ids in the order to show, each with its team, 0 or 1.

    Raises:
        InputError: When `size` is less than 1.
    """
    if size < 1:
        raise InputError(f"must be 1 or more, got {size}", field="size")
    toss = chance.randrange if chance is not None else random.randrange
    shown: dict[str, int] = {}
    next_of = [iter(a), iter(b)]
    places = [0, 0]
    while len(shown) < size:
        team = toss(2) if places[0] == places[1] else int(places[1] < places[0])
        listing = next((listing for listing in next_of[team] if listing not in shown), None)
        if listing is None:
            rest = [listing for listing in next_of[1 - team] if listing not in shown]
            shown |= dict.fromkeys(rest[: size - len(shown)], 1 - team)
            break
        shown[listing] = team
        places[team] += 1
    return list(shown.items())
