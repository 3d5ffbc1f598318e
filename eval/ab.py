"""A/B tests from a feedback log: who wins where results were interleaved, and what another order would have earned.

`preference` reads lists in which two rankers were interleaved. `off_policy` needs no experiment: it values an order
that was never shown by the clicks on those that were, corrected for what their ranks let shoppers see.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from eval.clicks import sign_test
from genrank.errors import InputError
from genrank.experiment.metrics import best_first
from genrank.search.feedback.bias import FAR_AHEAD, LONG_AGO, chance_parameters, chance_sql, event_column
from genrank.search.feedback.log import FeedbackLog, Kind

Worth = Literal["clicks", "dcg"]
"""What a click is worth at a rank: ``clicks`` the chance that it is looked at, ``dcg`` ``1 / log2(rank + 1)``."""

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]
_RESAMPLES = 2000
_CELLS = 4_000_000


@dataclass(frozen=True, slots=True)
class Preference:
    """Which of two interleaved rankers shoppers prefer. A visit is a session, else a shopper, else a single list.

    Attributes:
        wins_a: Visits with more events on A's listings.
        wins_b: Visits with more events on B's.
        ties: Visits with equally many, none included.
        share: A's share of all visits, a tie shared equally, 0 to 1; 0.5 is no preference.
        low: Lower end of its 95 % interval, by bootstrap over visits.
        high: Upper end.
        p: Two-sided p of the sign test over visits without a tie.
    """

    wins_a: int
    wins_b: int
    ties: int
    share: float
    low: float
    high: float
    p: float


def preference(
    log: FeedbackLog,
    a: str,
    b: str,
    *,
    kind: Kind = "click",
    since: datetime = LONG_AGO,
    until: datetime = FAR_AHEAD,
    seed: int = 0,
) -> Preference:
    """Compare two rankers whose results were interleaved.

    Args:
        log: Holds lists whose listings have the teams `a` and `b` (`genrank.search.feedback.interleaving`).
        a: Name of team A.
        b: Name of team B.
        kind: Which events count.
        since: Lists shown from then on, UTC.
        until: Lists shown before then, UTC.
        seed: Seed of the bootstrap.

    Raises:
        InputError: When no list holds listings of both teams.
        EngineError: As in `FeedbackLog.query`.
        MissingExtraError: When scipy is not installed.
    """
    hit = f"({event_column(kind)} > 0)::INT"
    table = log.query(
        f'SELECT visit, sum(lead)::BIGINT AS lead FROM (SELECT coalesce(any_value(session), any_value("user"), '
        f"request_id) AS visit, sum(CASE team WHEN ? THEN {hit} WHEN ? THEN -{hit} ELSE 0 END) AS lead FROM feedback "
        "WHERE time >= ? AND time < ? GROUP BY request_id HAVING bool_or(team = ?) AND bool_or(team = ?)) "
        "GROUP BY visit ORDER BY visit",
        [a, b, since, until, a, b],
    )
    leads = table["lead"].to_numpy()
    if not len(leads):
        raise InputError(f"no list holds listings of both {a!r} and {b!r}", field="a")
    wins, losses = int((leads > 0).sum()), int((leads < 0).sum())
    shares = (np.sign(leads) + 1) / 2
    low, high = _interval(shares, np.ones(len(shares)), seed)
    return Preference(
        wins, losses, len(leads) - wins - losses, float(shares.mean()), low, high, sign_test(wins, losses)
    )


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval, by bootstrap over lists.

    Attributes:
        value: The value.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class OffPolicy:
    """What an order would earn with the shoppers of a log.

    Attributes:
        ips: A list's expected worth, by clipped inverse propensity scores.
        snips: Mean worth of the ranks at which the order has what shoppers click, 0 to 1, self-normalised: the scale of
            the propensities does not matter. None without a click.
        doubly_robust: A list's expected worth, by a click model that is corrected where it is wrong. It varies less
            than `ips` where listings were shown at several ranks, and clipping biases it less.
        logged: The same as `ips` for the orders that were shown, for comparison.
        lists: Lists.
        clicks: Clicked listings.
        clipped: Share of the clicks whose weight was clipped.
        unknown: Lists that were left out because the order lacks their query or one of their listings.
    """

    ips: Estimate
    snips: Estimate | None
    doubly_robust: Estimate
    logged: Estimate
    lists: int
    clicks: int
    clipped: float
    unknown: int


def off_policy(
    log: FeedbackLog,
    run: Mapping[str, Mapping[str, float]],
    propensities: Sequence[float] | None = None,
    *,
    worth: Worth = "dcg",
    kind: Kind = "click",
    clip: float = 20.0,
    since: datetime = LONG_AGO,
    until: datetime = FAR_AHEAD,
    seed: int = 0,
) -> OffPolicy:
    """Value an order of the listings that were shown, by what was clicked under other orders.

    With ``c`` a click, ``p`` the propensity of the rank at which the listing was shown, ``w = min(1 / p, clip)``, and
    ``d`` the worth of its rank in the new order, a list's value is

    - ``ips``: ``sum of c * w * d`` (Joachims, Swaminathan & Schnabel 2017, arXiv 1608.04468);
    - ``snips``: ``sum of c * w * d / sum of c * w`` over all lists (Swaminathan & Joachims 2015, "The Self-Normalized
      Estimator for Counterfactual Learning");
    - ``doubly_robust``: ``sum of d * (g + v * (c - p * g))``, where ``v = min(1 / r, clip)``, ``r`` is the mean
      propensity of the listing over all lists of the query, and ``g`` its attraction, estimated from the other half of
      the lists (Oosterhuis 2022, arXiv 2203.17118).

    Where propensities are right and nothing is clipped, ``ips`` and ``doubly_robust`` are right on average.

    Args:
        log: The log.
        run: The new order, scores by query in lower case and listing; higher is better.
        propensities: As in `genrank.search.feedback.bias.attractions`.
        worth: What a click is worth at a rank: ``clicks`` gives a list's expected clicks, ``dcg`` its expected DCG.
        kind: Which events count as a click.
        clip: Greatest weight, over 0.
        since: Lists shown from then on, UTC.
        until: Lists shown before then, UTC.
        seed: Seed of halves and bootstrap.

    Raises:
        InputError: When no list is left, a setting is out of range, or propensities are missing.
        EngineError: As in `FeedbackLog.query`.
    """
    if worth not in get_args(Worth):
        raise InputError(f"must be one of {', '.join(get_args(Worth))}, got {worth!r}", field="worth")
    if not clip > 0:
        raise InputError(f"must be over 0, got {clip}", field="clip")
    table = log.query(
        f"SELECT request_id, lower(query) AS query, listing_id, rank, ({event_column(kind)} > 0)::INT AS hit, "
        f"{chance_sql()} AS chance FROM feedback WHERE time >= ? AND time < ? ORDER BY request_id, rank",
        [*chance_parameters(propensities), since, until],
    )
    if unknown_chances := table["chance"].null_count:
        raise InputError(f"the log has none for {unknown_chances} impressions; give some", field="propensities")
    by_rank = list(propensities) if propensities is not None else _logged_propensities(table)
    rows = _Rows()
    unknown = 0
    for query, ids, ranks, hits, chances in _lists(table):
        known = run.get(query, {})
        if any(key not in known for key in ids):
            unknown += 1
            continue
        # the listings share the ranks that they had: on a second page, the first is not rank 1
        places = dict(zip(best_first({key: known[key] for key in ids}), sorted(ranks), strict=True))
        rows.add(query, ids, hits, chances, [_worth(places[key], worth, by_rank) for key in ids])
        rows.old += [_worth(rank, worth, by_rank) for rank in ranks]
    if not rows.hits:
        raise InputError(f"it lacks the queries or listings of all {unknown} lists", field="run")
    return rows.estimates(clip, seed, unknown)


def _lists(table: Any) -> list[tuple[str, list[str], list[int], list[int], list[float]]]:
    """The lists of a table that is ordered by list."""
    columns = {name: table[name].to_pylist() for name in ("request_id", "query", "listing_id", "rank", "hit", "chance")}
    requests = columns["request_id"]
    starts = [i for i, request in enumerate(requests) if not i or request != requests[i - 1]]
    return [
        (columns["query"][start], *(columns[name][start:end] for name in ("listing_id", "rank", "hit", "chance")))
        for start, end in zip(starts, [*starts[1:], len(requests)], strict=True)
    ]


def _logged_propensities(table: Any) -> list[float]:
    """The mean propensity of each rank; a rank without any has the one before it."""
    ranks, chances = (table[name].to_numpy() for name in ("rank", "chance"))
    if not len(ranks):
        return [1.0]
    sums, counts = np.bincount(ranks - 1, weights=chances), np.bincount(ranks - 1)
    found: list[float] = []
    for total, count in zip(sums, counts, strict=True):
        found.append(float(total / count) if count else found[-1] if found else 1.0)
    return found


def _worth(rank: int, worth: Worth, propensities: Sequence[float]) -> float:
    return 1 / math.log2(rank + 1) if worth == "dcg" else propensities[min(rank, len(propensities)) - 1]


class _Rows:
    """Listings of all lists, one after another."""

    def __init__(self) -> None:
        self.pairs: dict[tuple[str, str], int] = {}
        self.pair: list[int] = []
        self.list_of: list[int] = []
        self.hits: list[int] = []
        self.chances: list[float] = []
        self.new: list[float] = []
        self.old: list[float] = []
        self.lists = 0

    def add(
        self, query: str, ids: Sequence[str], hits: Sequence[int], chances: Sequence[float], new: Sequence[float]
    ) -> None:
        """One more list."""
        self.pair += [self.pairs.setdefault((query, key), len(self.pairs)) for key in ids]
        self.list_of += [self.lists] * len(ids)
        self.hits += hits
        self.chances += chances
        self.new += new
        self.lists += 1

    def estimates(self, clip: float, seed: int, unknown: int) -> OffPolicy:
        """What the lists say."""
        hits, chances, new, old = (
            np.array(one, dtype=np.float64) for one in (self.hits, self.chances, self.new, self.old)
        )
        list_of = np.array(self.list_of)
        weights = np.minimum(1 / chances, clip)
        pair = np.array(self.pair)
        attraction = crossed_attraction(hits, chances, pair, list_of, seed)
        usual = (np.bincount(pair, chances) / np.bincount(pair))[pair]
        robust = new * (attraction + np.minimum(1 / usual, clip) * (hits - chances * attraction))
        ones = np.ones(self.lists)

        def by_list(values: _Floats) -> _Floats:
            return np.bincount(list_of, weights=values, minlength=self.lists).astype(np.float64)

        def estimate(values: _Floats, of: _Floats) -> Estimate:
            return Estimate(float(values.sum() / of.sum()), *_interval(values, of, seed))

        clicked = by_list(hits * weights)
        return OffPolicy(
            ips=estimate(by_list(hits * weights * new), ones),
            snips=estimate(by_list(hits * weights * new), clicked) if clicked.any() else None,
            doubly_robust=estimate(by_list(robust), ones),
            logged=estimate(by_list(hits * weights * old), ones),
            lists=self.lists,
            clicks=int(hits.sum()),
            clipped=float((1 / chances > clip)[hits > 0].mean()) if hits.any() else 0.0,
            unknown=unknown,
        )


def crossed_attraction(hits: _Floats, chances: _Floats, pair: _Ints, list_of: _Ints, seed: int = 0) -> _Floats:
    """Attraction of each row's pair of query and listing, estimated from the half of the lists that the row is not in.

    Args:
        hits: ``[rows]``, 1 where it was clicked, else 0.
        chances: ``[rows]``, propensities.
        pair: ``[rows]``, number of the pair, 0-based.
        list_of: ``[rows]``, number of the list, 0-based.
        seed: Seed of the halves.

    Returns:
        ``[rows]``, 0 to 1.
    """
    half = np.random.default_rng(seed).integers(2, size=int(list_of.max()) + 1)[list_of]
    found = np.zeros(len(hits))
    for side in (0, 1):
        used = half != side
        clicks, looks = (np.bincount(pair[used], one[used], minlength=int(pair.max()) + 1) for one in (hits, chances))
        mean = clicks.sum() / looks.sum() if used.any() else 0.0
        found[~used] = np.minimum((clicks + mean) / (looks + 1), 1.0)[pair[~used]]
    return found


def _interval(values: _Floats, of: _Floats, seed: int) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of ``sum of values / sum of of``, both ``[n]``."""
    rng = np.random.default_rng(seed)
    found: list[_Floats] = []
    step = max(1, _CELLS // len(values))
    for start in range(0, _RESAMPLES, step):
        chosen = rng.integers(len(values), size=(min(step, _RESAMPLES - start), len(values)))
        sums = of[chosen].sum(axis=1)
        found.append(values[chosen].sum(axis=1)[sums > 0] / sums[sums > 0])
    low, high = np.percentile(np.concatenate(found), [2.5, 97.5])
    return float(low), float(high)
