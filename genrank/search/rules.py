"""Business rules after ranking: stock, pinned and buried listings, caps and floors.

`apply_rules` re-orders a ranking so that it keeps the rules, and otherwise leaves the order as it is. Where rules
contradict each other, the earlier one in this list wins:

1. ``pinned`` listings have their rank.
2. ``buried`` listings come last.
3. With ``in_stock``, listings that are out of stock come behind the others, but before buried ones.
4. ``at_most``: caps.
5. ``at_least``: exposure floors.
6. The ranking's own order.

The ranks that no pin has are filled from the first on, each with the best listing that breaks no cap and leaves enough
ranks for the floors. A rule that could not be kept is in the report. That is greedy: docs/variety.md says how near it
comes to the best order, which a solver finds.

Nothing is lost: every item comes back exactly once.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from genrank.errors import ConfigError, InputError, shown
from genrank.files import read_text
from genrank.inputs import whole_number
from genrank.types import Id, Listing, Ranking, Whole, checked, in_order


def _by(name: str) -> str:
    if name not in ("brand", "seller", "category") and not re.fullmatch(r"attributes\..+", name):
        raise ValueError("must be brand, seller, category or attributes.NAME")
    return name


_By = Annotated[str, AfterValidator(_by)]
_Count = Annotated[Whole, Field(ge=0)]
_Place = Annotated[Whole, Field(ge=1)]


@checked
class AtMost:
    """A cap: at most so many listings of one brand, seller, category or attribute among the first.

    Attributes:
        by: ``brand``, ``seller``, ``category`` (the whole path: ``Women > Dresses``) or ``attributes.NAME``. Listings
            without it are not capped. Names are compared as they are written.
        most: The most listings of one value.
        top: How many of the first places it is about.
        values: The values that are capped; empty for each value by itself.
    """

    by: _By
    most: _Count
    top: _Place
    values: tuple[str, ...] = ()


@checked
class AtLeast:
    """An exposure floor: at least so many listings of some kind among the first.

    Attributes:
        by: As in `AtMost`; ``category`` also counts listings of the categories below.
        least: The least listings, of all values together.
        top: How many of the first places it is about.
        values: Which values count; empty for any listing that has one.
    """

    by: _By
    least: _Place
    top: _Place
    values: tuple[str, ...] = ()


@checked
class Rules:
    """The business rules of a shop; by default none.

    Examples:
        >>> Rules(in_stock=True, at_most=({"by": "brand", "most": 2, "top": 10},), pinned={"p7": 1})

    Attributes:
        in_stock: Whether listings that are out of stock come behind the others; unknown stock counts as in stock.
        at_most: Caps.
        at_least: Exposure floors.
        pinned: Rank by listing id, 1-based. Of two pins at one rank the first one gets it.
        buried: Ids of listings that come last.

    Raises:
        InputError: When a value is wrong, or an id is both pinned and buried.
    """

    in_stock: bool = False
    at_most: tuple[AtMost, ...] = ()
    at_least: tuple[AtLeast, ...] = ()
    pinned: Mapping[Id, _Place] = field(default_factory=dict)
    buried: tuple[Id, ...] = ()

    @field_validator("buried")
    @classmethod
    def _not_pinned_too(cls, buried: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if both := set(buried) & set(info.data.get("pinned", ())):
            raise ValueError(f"{min(both)!r} is pinned too; remove it from one of the two")
        return buried


@dataclass(frozen=True, slots=True)
class Conflict:
    """A rule that could not be kept as it is written.

    Attributes:
        rule: Its name, such as ``at_most[0]`` or ``pinned.p7``.
        why: What happened instead, in words.
    """

    rule: str
    why: str


@dataclass(frozen=True, slots=True)
class RulesReport:
    """What rules did with a ranking.

    Attributes:
        rules: Names of the rules that were applied.
        moved: Listings whose rank is another now.
        pinned: Listings that were pinned.
        buried: Listings that were buried.
        out_of_stock: Listings that were put behind the others because they are out of stock.
        absent: Pinned ids that the ranking does not hold.
        conflicts: What could not be kept.
    """

    rules: tuple[str, ...]
    moved: int
    pinned: int
    buried: int
    out_of_stock: int
    absent: tuple[str, ...]
    conflicts: tuple[Conflict, ...]


@dataclass(frozen=True, slots=True)
class RuleCosts:
    """What rules cost in nDCG@k; a negative cost is a gain.

    Attributes:
        before: nDCG@k of the ranking without rules, 0 to 1.
        after: nDCG@k with all rules.
        alone: By rule, `before` less the nDCG@k with that rule alone. Rules overlap, so these need not add up to
            ``before - after``.
    """

    before: float
    after: float
    alone: Mapping[str, float]


def load_rules(path: str | Path) -> Rules:
    """Read rules from a ``.toml`` or ``.json`` file, whose keys are the attributes of `Rules`.

    Raises:
        ConfigError: When the file cannot be read, or a key or value is wrong; the message names the file and the field.
    """
    path = Path(path)
    read = {".toml": tomllib.loads, ".json": json.loads}.get(path.suffix)
    if read is None:
        raise ConfigError(f"{path}: rules are a .toml or .json file")
    try:
        fields = read(read_text(path))
        if not isinstance(fields, dict):
            raise ConfigError(f'{path}: must be an object, such as {{"in_stock": true}}')
        return Rules(**fields)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except InputError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not {path.suffix[1:].upper()} in UTF-8: {error}") from None


def apply_rules(ranking: Ranking, rules: Rules) -> tuple[Ranking, RulesReport]:
    """Re-order a ranking so that it keeps the rules; see the module's text.

    A score is lowered where an item above has a lower one, since scores never rise down a ranking.

    Args:
        ranking: With all items that may move up; a cap or a floor cannot bring in what is not there.
        rules: The rules; without any, the ranking comes back as it is.

    Returns:
        The ranking, whose provenance names the rules, and the report.

    Raises:
        InputError: When an argument is of the wrong type.
    """
    _check(ranking, rules)
    names = tuple(_one_by_one(rules))
    listings = [item.listing for item in ranking]
    order, conflicts = _order(listings, rules)
    known = {listing.listing_id for listing in listings}
    report = RulesReport(
        rules=names,
        moved=sum(place != i for i, place in enumerate(order)),
        pinned=len(known & rules.pinned.keys()),
        buried=len(known.intersection(rules.buried)),
        out_of_stock=sum(_level(one, rules) == 1 and one.listing_id not in rules.pinned for one in listings),
        absent=tuple(key for key in rules.pinned if key not in known),
        conflicts=tuple(conflicts),
    )
    if not names:
        return ranking, report
    provenance = dataclasses.replace(ranking.provenance, rules=names)
    return dataclasses.replace(ranking, items=in_order(ranking[i] for i in order), provenance=provenance), report


def rule_costs(ranking: Ranking, rules: Rules, *, gains: Mapping[str, float] | None = None, k: int = 10) -> RuleCosts:
    """What rules cost in nDCG@k, all together and each alone.

    ``nDCG@k = DCG@k / DCG@k of the items' best order``, ``DCG@k = sum over ranks i <= k of gain / log2(i + 1)``.

    Args:
        ranking: The ranking before the rules.
        rules: The rules.
        gains: By listing id, 0 or more; 0 for ids that are not in it. From judgements they measure quality. None takes
            the ranking's own scores: then `before` is 1, and a cost says how far the order is from the reranker's.
        k: Depth, at least 1.

    Raises:
        InputError: When an argument is wrong.
    """
    _check(ranking, rules)
    k = whole_number("k", k, at_least=1)
    if gains is None:
        gains = {item.listing_id: item.score for item in ranking}
    values = [gains.get(item.listing_id, 0.0) for item in ranking]
    for item, gain in zip(ranking, values, strict=True):
        if not isinstance(gain, (int, float)) or not 0 <= gain < math.inf:
            raise InputError(f"must be a number of at least 0, got {shown(gain)}", field=f"gains[{item.listing_id!r}]")
    listings = [item.listing for item in ranking]
    ideal = dcg(sorted(values, reverse=True), k)

    def ndcg(some: Rules) -> float:
        order, _ = _order(listings, some)
        return dcg([values[i] for i in order], k) / ideal if ideal else 0.0

    before = ndcg(Rules())
    alone = {name: before - ndcg(one) for name, one in _one_by_one(rules).items()}
    return RuleCosts(before, ndcg(rules), alone)


def _check(ranking: object, rules: object) -> None:
    for name, value, kind in (("ranking", ranking, Ranking), ("rules", rules, Rules)):
        if not isinstance(value, kind):
            raise InputError(f"must be {kind.__name__}, got {type(value).__name__}", field=name)


def dcg(gains: Sequence[float], k: int) -> float:
    """``sum over ranks i <= k of gain / log2(i + 1)``."""
    return math.fsum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains[:k], start=1))


def _one_by_one(rules: Rules) -> dict[str, Rules]:
    """Each rule alone, by name, in the order in which they take precedence."""
    found: dict[str, Rules] = {}
    if rules.pinned:
        found["pinned"] = Rules(pinned=rules.pinned)
    if rules.buried:
        found["buried"] = Rules(buried=rules.buried)
    if rules.in_stock:
        found["in_stock"] = Rules(in_stock=True)
    found |= {f"at_most[{i}]": Rules(at_most=(cap,)) for i, cap in enumerate(rules.at_most)}
    found |= {f"at_least[{i}]": Rules(at_least=(floor,)) for i, floor in enumerate(rules.at_least)}
    return found


def _level(listing: Listing, rules: Rules) -> int:
    """0, or 1 for what comes behind, or 2 for what comes last."""
    if listing.listing_id in rules.buried:
        return 2
    return int(rules.in_stock and listing.in_stock is False)


def _names(listing: Listing, by: str) -> list[str]:
    """The listing's brand, seller or attribute, if it has one; of ``category``, its categories, the narrowest last."""
    match by:
        case "brand":
            name = listing.brand
        case "seller":
            name = listing.seller_id
        case "category":
            return [" > ".join(listing.category[:depth]) for depth in range(1, len(listing.category) + 1)]
        case _:
            name = listing.attributes.get(by.removeprefix("attributes."), "")
    return [name] if name else []


def _capped(listing: Listing, cap: AtMost) -> list[str]:
    """The names under which a cap counts a listing."""
    names = _names(listing, cap.by)
    return [name for name in names if name in cap.values] if cap.values else names[-1:]


def _helps(listing: Listing, floor: AtLeast) -> bool:
    names = _names(listing, floor.by)
    return bool(set(names).intersection(floor.values)) if floor.values else bool(names)


def _order(listings: Sequence[Listing], rules: Rules) -> tuple[list[int], list[Conflict]]:
    """Places of listings in the new order, 0-based, and what could not be kept."""
    seats, conflicts = _pin(listings, rules)
    pinned = {place for place in seats if place is not None}
    levels = [_level(listing, rules) for listing in listings]
    left = sorted((i for i in range(len(listings)) if i not in pinned), key=levels.__getitem__)
    table = _Table(listings, rules, seats)
    for seat in range(len(seats)):
        if seats[seat] is None:
            pool = [i for i in left if levels[i] == levels[left[0]]] if seat < table.deepest else left[:1]
            best = table.best(pool, seat)
            left.remove(best)
            table.put(best, seat)
    order = [place for place in seats if place is not None]
    conflicts += _broken_caps(listings, order, pinned, rules)
    conflicts += _missed_floors(listings, order, levels, rules)
    return order, conflicts


def _pin(listings: Sequence[Listing], rules: Rules) -> tuple[list[int | None], list[Conflict]]:
    """The seats, 0-based, with the pinned listings' places in them."""
    places = {listing.listing_id: i for i, listing in enumerate(listings)}
    seats: list[int | None] = [None] * len(listings)
    conflicts = []
    for key, rank in rules.pinned.items():
        if key not in places:
            continue
        wanted = min(rank, len(seats)) - 1
        nearest = (*range(wanted, len(seats)), *range(wanted - 1, -1, -1))
        seat = next(seat for seat in nearest if seats[seat] is None)
        seats[seat] = places[key]
        if seat + 1 != rank:
            why = f"the ranking has {len(seats)} items" if rank > len(seats) else "an earlier pin has that rank"
            conflicts.append(Conflict("pinned", f"{key!r} is at rank {seat + 1} instead of {rank}: {why}"))
        if _level(listings[places[key]], rules):
            why = f"{key!r} is out of stock and stays at its pinned rank {seat + 1}"
            conflicts.append(Conflict("in_stock", why))
    return seats, conflicts


class _Table:
    """Counts what stands in the first places, and says which listing comes next.

    Args:
        listings: ``[n]`` in the ranking's order.
        rules: The rules.
        seats: ``[n]`` places of the pinned listings, None where there is none; `put` fills them.
    """

    def __init__(self, listings: Sequence[Listing], rules: Rules, seats: list[int | None]) -> None:
        self._caps, self._floors, self._seats = rules.at_most, rules.at_least, seats
        self._capped = [[_capped(listing, cap) for cap in self._caps] for listing in listings]
        self._helps = [[_helps(listing, floor) for floor in self._floors] for listing in listings]
        self._counts: list[Counter[str]] = [Counter() for _ in self._caps]
        self._missing = [floor.least for floor in self._floors]
        tops = [cap.top for cap in self._caps] + [floor.top for floor in self._floors]
        self.deepest = max(tops, default=0)
        for seat, place in enumerate(seats):
            if place is not None:
                self.put(place, seat)

    def put(self, place: int, seat: int) -> None:
        """Set the listing at `place` of the ranking at a seat."""
        self._seats[seat] = place
        for cap, count, names in zip(self._caps, self._counts, self._capped[place], strict=True):
            if seat < cap.top:
                count.update(names)
        for i, floor in enumerate(self._floors):
            if seat < floor.top and self._helps[place][i]:
                self._missing[i] -= 1

    def best(self, pool: Sequence[int], seat: int) -> int:
        """Which of some listings, best first, stands at a seat."""
        breaks = {place: self._breaks(place, seat) for place in pool}
        fewest = min(breaks.values())
        allowed = [place for place in pool if breaks[place] == fewest]
        if not any(floor.top > seat and self._missing[i] > 0 for i, floor in enumerate(self._floors)):
            return allowed[0]
        return min(allowed, key=lambda place: self._short(place, pool, seat))  # of equal ones the first

    def _short(self, place: int, pool: Sequence[int], seat: int) -> int:
        """How many seats too few the floors would have, if the listing at `place` stood at a seat."""
        missing = [count - helps for count, helps in zip(self._missing, self._helps[place], strict=True)]
        others = [other for other in pool if other != place]
        short = 0
        for top in {floor.top for floor in self._floors if floor.top > seat}:
            free = sum(one is None for one in self._seats[seat + 1 : top])
            asked = {i: missing[i] for i, floor in enumerate(self._floors) if seat < floor.top <= top}
            short += max(0, self._needed(asked, others) - free)
        return short

    def _needed(self, missing: dict[int, int], pool: Sequence[int]) -> int:
        """How many listings of a pool meet floors that lack so many, as far as the pool can."""
        left = list(pool)
        needed = 0

        def worth(place: int) -> int:
            return sum(count > 0 and self._helps[place][i] for i, count in missing.items())

        while left and worth(most := max(left, key=worth)):
            left.remove(most)
            needed += 1
            for i in missing:
                missing[i] -= self._helps[most][i]
        return needed

    def _breaks(self, place: int, seat: int) -> int:
        return sum(
            seat < cap.top and any(count[name] >= cap.most for name in names)
            for cap, count, names in zip(self._caps, self._counts, self._capped[place], strict=True)
        )


def _broken_caps(
    listings: Sequence[Listing], order: Sequence[int], pinned: Iterable[int], rules: Rules
) -> list[Conflict]:
    conflicts = []
    for i, cap in enumerate(rules.at_most):
        first = order[: cap.top]
        fixed = Counter(name for place in set(first).intersection(pinned) for name in _capped(listings[place], cap))
        for name, count in Counter(name for place in first for name in _capped(listings[place], cap)).items():
            if count > cap.most:
                why = "they are pinned" if fixed[name] > cap.most else "no other listing was left that keeps all caps"
                found = f"{count} listings of {cap.by} {name!r} in the top {cap.top}, at most {cap.most} wanted: {why}"
                conflicts.append(Conflict(f"at_most[{i}]", found))
    return conflicts


def _missed_floors(
    listings: Sequence[Listing], order: Sequence[int], levels: Sequence[int], rules: Rules
) -> list[Conflict]:
    conflicts = []
    for i, floor in enumerate(rules.at_least):
        helpful = [place for place in order if _helps(listings[place], floor)]
        count = len(set(helpful).intersection(order[: floor.top]))
        if count < floor.least:
            there = sum(levels[place] == 0 for place in helpful)
            why = f"the ranking holds {there}" if there <= count else "the rules before it come first"
            kind = f"{floor.by} {', '.join(map(repr, floor.values))}" if floor.values else f"any {floor.by}"
            found = f"{count} listings of {kind} in the top {floor.top}, at least {floor.least} wanted: {why}"
            conflicts.append(Conflict(f"at_least[{i}]", found))
    return conflicts
