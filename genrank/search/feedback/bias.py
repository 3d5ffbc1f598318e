"""Position bias: which ranks shoppers look at, and what clicks say of the listings once that is accounted for.

The model is the position-based one: ``P(click) = propensity(rank) * attraction(query, listing)``. The propensity is the
chance that a shopper looks at a rank, relative to rank 1; the attraction that they click what they look at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from genrank.errors import InputError
from genrank.inputs import whole_number
from genrank.search.feedback.log import FeedbackLog, Kind

Method = Literal["model", "ips"]
"""How attraction is estimated; see `attractions`."""

LONG_AGO = datetime(1, 1, 1)
FAR_AHEAD = datetime(9999, 1, 1)

_SMOOTH = 1.0
_STEPS = 100
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Propensities:
    """The chance that shoppers look at each rank, relative to rank 1.

    Attributes:
        values: ``[ranks]``, from rank 1 on, over 0 and up to 1; the first is 1.
        clicks: ``[ranks]``, the clicks at each rank that told of it. A rank without any has nearly its neighbours'
            value.
        pairs: Pairs of query and listing that were clicked and had been shown at two ranks or more. Only these tell the
            rank's part in a click from the listing's.
    """

    values: tuple[float, ...]
    clicks: tuple[int, ...]
    pairs: int


@dataclass(frozen=True, slots=True)
class Attraction:
    """What the log says of a listing for a query.

    Attributes:
        query: The query in lower case.
        listing_id: The listing.
        rank: Mean rank at which it was shown, 1 or more.
        shown: Lists that it was in.
        clicked: Lists in which it was clicked.
        examined: Sum of the propensities of its ranks: in how many lists it was looked at, by expectation.
        estimate: The estimated chance that a shopper who looks at it clicks it, 0 to 1.
    """

    query: str
    listing_id: str
    rank: float
    shown: int
    clicked: int
    examined: float
    estimate: float


def estimate(
    log: FeedbackLog,
    *,
    kind: Kind = "click",
    since: datetime = LONG_AGO,
    until: datetime = FAR_AHEAD,
    ranks: int = 50,
) -> Propensities:
    """Estimate propensities from listings that were shown at several ranks for the same query.

    That happens by itself when a model is replaced, stock changes, or results are interleaved or shuffled a little
    (Agarwal et al. 2019, arXiv 1812.05161). See `fit` for the estimate.

    Args:
        log: The log.
        kind: Which events count as a click.
        since: Lists shown from then on, UTC.
        until: Lists shown before then, UTC.
        ranks: Deeper ranks are left out; 1 or more.

    Raises:
        InputError: When no listing that was clicked was shown at two ranks for the same query, or `ranks` is less than
            1.
        EngineError: As in `FeedbackLog.query`.
    """
    if ranks < 1:
        raise InputError(f"must be 1 or more, got {ranks}", field="ranks")
    table = log.query(
        f"SELECT dense_rank() OVER (ORDER BY lower(query), listing_id) - 1 AS pair, rank - 1 AS place, "
        f"count(*) AS shown, count(*) FILTER ({event_column(kind)} > 0) AS clicked FROM feedback "
        "WHERE time >= ? AND time < ? AND rank <= ? GROUP BY lower(query), listing_id, rank",
        [since, until, ranks],
    )
    pair, place, shown, clicked = (table[name].to_numpy() for name in ("pair", "place", "shown", "clicked"))
    size = (int(pair.max()) + 1, int(place.max()) + 1) if len(pair) else (0, 1)
    # only pairs with a click at one rank and a showing at another say anything
    told = (np.bincount(pair, minlength=size[0]) > 1) & (np.bincount(pair, weights=clicked, minlength=size[0]) > 0)
    rows = np.cumsum(told) - 1
    counts = np.zeros((2, int(told.sum()), size[1]))
    used = told[pair] if len(pair) else np.zeros(0, dtype=bool)
    counts[:, rows[pair[used]], place[used]] = shown[used], clicked[used]
    return fit(*counts)


def fit(shown: _Floats, clicked: _Floats) -> Propensities:
    """Fit propensities to counts of pairs of query and listing.

    Given all clicks on a pair, each fell on rank ``k`` with the chance ``shown_k * p_k / sum over j of shown_j * p_j``,
    in which the pair's attraction cancels. The ``p`` maximise the likelihood of that (the conditional likelihood of
    Poisson counts with a fixed effect for each pair: Hausman, Hall & Griliches 1984), less
    ``1/2 * sum of (ln p_k - ln p_(k-1))^2``, which matters only where there are few clicks.

    Args:
        shown: ``[pairs, ranks]``, how often each pair was shown at each rank.
        clicked: ``[pairs, ranks]``, how often it was clicked there.

    Raises:
        InputError: When no pair with a click was shown at two ranks.
    """
    keep = ((shown > 0).sum(axis=1) > 1) & (clicked.sum(axis=1) > 0)
    if not keep.any():
        raise InputError(
            "no listing that was clicked was shown at two ranks for the same query, so its clicks may as well be its "
            "own merit; swap a few results at random, or give propensities",
            field="log",
        )
    shown, clicked = shown[keep], clicked[keep]
    ranks = shown.shape[1]
    at_rank, of_pair = clicked.sum(axis=0), clicked.sum(axis=1)
    steps = np.diff(np.eye(ranks), axis=0)
    smooth = _SMOOTH * steps.T @ steps
    logs = np.zeros(ranks)

    def objective(logs: _Floats) -> float:
        weighted = shown @ np.exp(logs)
        return float(at_rank @ logs - of_pair @ np.log(weighted) - logs @ smooth @ logs / 2)

    for _ in range(_STEPS):
        shares = shown * np.exp(logs)
        shares /= shares.sum(axis=1, keepdims=True)
        expected = of_pair @ shares
        slope = at_rank - expected - smooth @ logs
        curve = np.diag(expected) - shares.T @ (shares * of_pair[:, None]) + smooth
        step = np.zeros(ranks)  # rank 1 is the unit
        step[1:] = np.linalg.solve(curve[1:, 1:], slope[1:])
        size, before = 1.0, objective(logs)
        while size > 1e-6 and objective(logs + size * step) < before:
            size /= 2
        logs = logs + size * step
        if np.abs(size * step).max() < 1e-9:
            break
    values = np.minimum(np.exp(logs), 1.0)
    return Propensities(tuple(map(float, values)), tuple(map(int, at_rank)), len(shown))


def attractions(
    log: FeedbackLog,
    propensities: Sequence[float] | None = None,
    *,
    kind: Kind = "click",
    method: Method = "model",
    clip: float = 20.0,
    prior: float = 1.0,
    most_lists: int | None = None,
    since: datetime = LONG_AGO,
    until: datetime = FAR_AHEAD,
) -> list[Attraction]:
    """Estimate each listing's attraction for each query, corrected for position bias.

    - ``model``: ``clicks / examined``, the position-based model's estimate of greatest likelihood when propensities are
      known and chances are small.
    - ``ips``: the mean over lists of ``click * min(1 / propensity, clip)``, clipped inverse propensity scores
      (Joachims, Swaminathan & Schnabel 2017, arXiv 1608.04468). It varies more, and is too low where it is clipped.

    Both are drawn towards the mean of all, as if `prior` more looks had found it, so that a listing that was hardly
    looked at says little. Queries that differ only in letter case are one.

    Args:
        log: The log.
        propensities: By rank, from rank 1 on, each over 0 and up to 1; deeper ranks have the last one. None takes those
            in the log. ``[1.0]`` takes clicks as they are, without a correction.
        kind: Which events count as a click.
        method: How to estimate.
        clip: Greatest weight of ``ips``, over 0.
        prior: Weight of the mean, in looks; 0 or more.
        most_lists: How many lists of one shopper count for one query, the first ones, so that nobody outweighs all
            others. Where the shopper is unknown, the visit stands for them; lists without either all count. None: all.
        since: Lists shown from then on, UTC.
        until: Lists shown before then, UTC.

    Returns:
        By query, then by mean rank.

    Raises:
        InputError: When a setting is out of range, or `propensities` is None and a list was logged without them.
        EngineError: As in `FeedbackLog.query`.
    """
    if method not in get_args(Method):
        raise InputError(f"must be one of {', '.join(get_args(Method))}, got {method!r}", field="method")
    if not clip > 0:
        raise InputError(f"must be over 0, got {clip}", field="clip")
    if not (math.isfinite(prior) and prior >= 0):
        raise InputError(f"must be 0 or more, got {prior}", field="prior")
    most = None if most_lists is None else whole_number("most_lists", most_lists, at_least=1)
    table = log.query(
        f"""
        SELECT lower(query) AS query, listing_id, avg(rank) AS rank, count(*) AS shown, sum(hit)::BIGINT AS clicked,
            sum(chance) AS examined, sum(hit * least(1 / chance, ?)) AS weighted, count(*) - count(chance) AS unknown
        FROM (
            SELECT *, ({event_column(kind)} > 0)::INT AS hit, {chance_sql()} AS chance,
                coalesce("user", session) AS who
            FROM feedback WHERE time >= ? AND time < ?
            QUALIFY ? IS NULL OR who IS NULL OR row_number()
                OVER (PARTITION BY who, lower(query), listing_id ORDER BY time, request_id) <= ?
        )
        GROUP BY lower(query), listing_id ORDER BY query, rank, listing_id
        """,
        [clip, *chance_parameters(propensities), since, until, most, most],
    )
    rows = table.to_pylist()
    if unknown := sum(row["unknown"] for row in rows):
        raise InputError(f"the log has none for {unknown} impressions; give some, or [1.0]", field="propensities")
    hits, looks = ("clicked", "examined") if method == "model" else ("weighted", "shown")
    mean = sum(row[hits] for row in rows) / max(sum(row[looks] for row in rows), 1e-300)
    found = []
    for row in rows:
        value = (row[hits] + prior * mean) / (row[looks] + prior)
        named = {name: row[name] for name in ("query", "listing_id", "rank", "shown", "clicked", "examined")}
        found.append(Attraction(**named, estimate=min(value, 1.0)))
    return found


def chance_sql() -> str:
    """SQL for the propensity of an impression; its parameters come from `chance_parameters`."""
    return "CASE WHEN ? > 0 THEN list_extract(?::DOUBLE[], least(rank, ?)) ELSE propensity END"


def chance_parameters(propensities: Sequence[float] | None) -> list[object]:
    """The parameters of the SQL that gives an impression's propensity.

    Raises:
        InputError: When there is none, or one is not over 0 and up to 1.
    """
    table = [float(value) for value in propensities] if propensities is not None else []
    if propensities is not None and not table:
        raise InputError("there is none; give one for each rank, or [1.0]", field="propensities")
    for place, value in enumerate(table):
        if not 0 < value <= 1:
            raise InputError(f"must be over 0 and up to 1, got {value}", field=f"propensities[{place}]")
    return [len(table), table, len(table)]


def event_column(kind: str) -> str:
    """The column of the view ``feedback`` that counts these events.

    Raises:
        InputError: When there is no such kind.
    """
    if kind not in get_args(Kind):
        raise InputError(f"must be one of {', '.join(get_args(Kind))}, got {kind!r}", field="kind")
    return f"{kind}s"
