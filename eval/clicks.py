"""What click data says about a system: how well it predicts clicks, what its order would have earned, whether it wins.

An A/B test cannot be run offline. Logged clicks and judgements can still tell:

- how well the scores predict the clicks: `auc`, `log_loss`, `calibration_error`;
- what a new order is worth, from clicks on the logged one, corrected for what its ranks let people see: `ips`;
- which of two orders simulated users prefer when they see both at once: `interleave`.

Every result depends only on its arguments and the seed, not on the order of the queries.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from eval.significance import interval
from genrank.data.trec import Qrels
from genrank.errors import InputError, MissingExtraError
from genrank.experiment.metrics import Scores, best_first
from genrank.search.feedback.interleaving import team_draft

Clicks = Mapping[str, Mapping[str, int]]
"""``{query_id: {listing_id: 1 where it was clicked, else 0}}``, of the listings that were seen."""

User = Literal["perfect", "navigational", "informational"]

# chances by grade, from the lowest to the highest of five
_CLICK: dict[User, Sequence[float]] = {
    "perfect": (0.0, 0.2, 0.4, 0.8, 1.0),
    "navigational": (0.05, 0.3, 0.5, 0.7, 0.95),
    "informational": (0.4, 0.6, 0.7, 0.8, 0.9),
}
_STOP: dict[User, Sequence[float]] = {
    "perfect": (0.0, 0.0, 0.0, 0.0, 0.0),
    "navigational": (0.2, 0.3, 0.5, 0.7, 0.9),
    "informational": (0.1, 0.2, 0.3, 0.4, 0.5),
}


@dataclass(frozen=True, slots=True)
class Auc:
    """How well scores separate clicked listings from others.

    Attributes:
        overall: Area under the ROC curve over all pairs of query and listing; None where none was clicked, or all.
        grouped: Mean over queries of the same within the query; None where no query has both kinds.
        queries: Queries with both kinds, which `grouped` is the mean of.
        one_class: Queries without a click, or where everything was clicked.
    """

    overall: float | None
    grouped: float | None
    queries: int
    one_class: int


def auc(run: Scores, clicks: Clicks) -> Auc:
    """Area under the ROC curve: the chance that a clicked listing has the higher score; equal scores count one half.

    Args:
        run: Scores by query and listing, any finite numbers.
        clicks: What was seen and what was clicked.

    Raises:
        InputError: When there is no click data, or it names what the run lacks, or holds values other than 0 and 1, or
            a score is not finite.
        MissingExtraError: When scikit-learn is not installed.
    """
    roc_auc_score = _scikit("roc_auc_score")
    rows = _rows(run, clicks)
    values = [float(roc_auc_score(seen, scores)) for scores, seen in rows if _both(seen)]
    scores, seen = (np.concatenate(part) for part in zip(*rows, strict=True))
    return Auc(
        overall=float(roc_auc_score(seen, scores)) if _both(seen) else None,
        grouped=math.fsum(values) / len(values) if values else None,
        queries=len(values),
        one_class=len(rows) - len(values),
    )


def log_loss(run: Scores, clicks: Clicks) -> float:
    """``-mean of y * ln(p) + (1 - y) * ln(1 - p)`` over all pairs of query and listing, in nats.

    Probabilities of 0 and 1 are moved inside by the least step of a float, so that the loss is finite.

    Args:
        run: Probabilities of a click, 0 to 1.
        clicks: What was seen and what was clicked.

    Raises:
        InputError: As in `auc`, and when a score is not 0 to 1.
        MissingExtraError: When scikit-learn is not installed.
    """
    probabilities, seen = _probabilities(run, clicks)
    return float(_scikit("log_loss")(seen, probabilities, labels=[0, 1]))


def calibration_error(run: Scores, clicks: Clicks, *, bins: int = 10) -> float:
    """`expected_calibration_error` of probabilities of a click.

    Args:
        run: Probabilities of a click, 0 to 1.
        clicks: What was seen and what was clicked.
        bins: Number of bins, 1 or more.

    Raises:
        InputError: As in `auc`, and when a score is not 0 to 1, or `bins` is less than 1.
    """
    return expected_calibration_error(*_probabilities(run, clicks), bins=bins)


def expected_calibration_error(probabilities: npt.ArrayLike, outcomes: npt.ArrayLike, *, bins: int = 10) -> float:
    """Expected calibration error (Guo et al. 2017, arXiv 1706.04599).

    ``sum over bins of n_b / n * |mean outcome in b - mean probability in b|``, the bins equally wide.

    Args:
        probabilities: ``[n]``, 0 to 1, at least one.
        outcomes: ``[n]``, 1 where the event happened, else 0; a fraction where it happened in part.
        bins: Number of bins, 1 or more.

    Raises:
        InputError: When `bins` is less than 1.
    """
    if bins < 1:
        raise InputError(f"must be 1 or more, got {bins}", field="bins")
    foretold, came = np.asarray(probabilities, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    places = np.minimum((foretold * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(places, weights=came - foretold, minlength=bins)
    return float(np.abs(gaps).sum() / len(came))


def _scikit(name: str) -> Callable[..., Any]:
    try:
        import sklearn.metrics
    except ImportError:
        raise MissingExtraError("scikit-learn", "eval") from None
    function: Callable[..., Any] = getattr(sklearn.metrics, name)
    return function


def _rows(run: Scores, clicks: Clicks) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]]:
    """Scores and clicks of each query."""
    rows = []
    for query, seen in clicks.items():
        for listing, clicked in seen.items():
            if clicked not in (0, 1):
                raise InputError(f"query {query!r}: listing {listing!r} must be 0 or 1, got {clicked}", field="clicks")
        if seen:
            scores = np.array([_score(run, query, listing) for listing in seen], dtype=np.float64)
            rows.append((scores, np.array([int(clicked) for clicked in seen.values()])))
    if not rows:
        raise InputError("no listing was seen", field="clicks")
    return rows


def _score(run: Scores, query: str, listing: str) -> float:
    if query not in run:
        raise InputError(f"query {query!r} of the click data is missing", field="run")
    if listing not in run[query]:
        raise InputError(f"query {query!r}: listing {listing!r} of the click data is missing", field="run")
    score = run[query][listing]
    if not math.isfinite(score):
        raise InputError(f"query {query!r}: the score of listing {listing!r} is no finite number", field="run")
    return score


def _both(seen: npt.NDArray[np.int64]) -> bool:
    return bool(0 < seen.sum() < len(seen))


def _probabilities(run: Scores, clicks: Clicks) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    probabilities, seen = (np.concatenate(part) for part in zip(*_rows(run, clicks), strict=True))
    if probabilities.min() < 0 or probabilities.max() > 1:
        odd = probabilities.min() if probabilities.min() < 0 else probabilities.max()
        raise InputError(f"probabilities must be 0 to 1, got {odd}", field="run")
    return probabilities, seen


@dataclass(frozen=True, slots=True)
class Ips:
    """What an order would have earned, from clicks on another one.

    Attributes:
        value: Mean over queries of the weighted, discounted clicks.
        low: Lower end of its 95 % bootstrap interval over queries.
        high: Upper end.
        self_normalised: Weighted mean of the clicks' discounts, ``sum of w * discount / sum of w`` over all clicks, 0
            to 1; None without a click.
        clipped: Share of the clicks whose weight was clipped; 0 without a click.
        clicks: Number of clicks.
        queries: Number of queries.
    """

    value: float
    low: float
    high: float
    self_normalised: float | None
    clipped: float
    clicks: int
    queries: int


def ips(
    run: Scores,
    logged: Mapping[str, Sequence[str]],
    clicked: Mapping[str, Collection[str]],
    *,
    eta: float = 1.0,
    propensities: Sequence[float] | None = None,
    clip: float = math.inf,
    seed: int = 0,
) -> Ips:
    """Value an order by clicks that were logged under another one: clipped inverse propensity scores.

    ``value = mean over queries of sum over clicked listings of w * discount(rank in the new order)``, with
    ``w = min(1 / propensity(logged rank), clip)`` and ``discount(r) = 1 / log2(r + 1)`` (Joachims, Swaminathan &
    Schnabel 2017, arXiv 1608.04468; clipping: Swaminathan & Joachims 2015, arXiv 1502.02362). The propensity of a rank
    is the chance that people look at it, ``(1 / rank)^eta`` unless a table is given. Where that chance is right and
    nothing is clipped, the value's expectation is the discounted number of listings that people would click if they
    saw them all; clipping trades a bias (too low) for less variance.

    Args:
        run: The new order, as scores; for ties see `eval.metrics`.
        logged: By query, the listings as they were shown, best place first. One entry an impression.
        clicked: By query, the listings that were clicked; a query may be missing.
        eta: How steeply attention falls, 0 or more; 0 takes every rank as seen.
        propensities: The chance of being seen by rank, from rank 1 on, each over 0 and up to 1; overrides `eta`.
        clip: Greatest weight, over 0.
        seed: Seed of the bootstrap.

    Raises:
        InputError: When there is no query, a query or a clicked listing is missing from the run or the log, a listing
            was logged twice, or a setting is out of range.
    """
    if not logged:
        raise InputError("no query was logged", field="logged")
    if not (math.isfinite(eta) and eta >= 0):
        raise InputError(f"must be 0 or more, got {eta}", field="eta")
    if not clip > 0:
        raise InputError(f"must be more than 0, got {clip}", field="clip")
    for place, chance in enumerate(propensities or ()):
        if not 0 < chance <= 1:
            raise InputError(f"must be over 0 and up to 1, got {chance}", field=f"propensities[{place}]")
    if unknown := clicked.keys() - logged.keys():
        raise InputError(f"query {min(unknown)!r} was never logged", field="clicked")
    values: list[float] = []
    weights: list[float] = []
    discounts: list[float] = []
    clipped = 0
    for query, shown in logged.items():
        old = {listing: rank for rank, listing in enumerate(shown, start=1)}
        if len(old) != len(shown):
            raise InputError(f"query {query!r} shows a listing twice", field="logged")
        new = {listing: rank for rank, listing in enumerate(best_first(run.get(query, {})), start=1)}
        earned = []
        for listing in sorted(set(clicked.get(query, ()))):
            if listing not in old:
                raise InputError(f"query {query!r}: listing {listing!r} was never shown", field="clicked")
            _score(run, query, listing)
            weight = _weight(old[listing], eta, propensities)
            clipped += weight > clip
            weights.append(min(weight, clip))
            discounts.append(1 / math.log2(new[listing] + 1))
            earned.append(weights[-1] * discounts[-1])
        values.append(math.fsum(earned))
    low, high = interval(values, seed)
    total = math.fsum(weights)
    return Ips(
        value=math.fsum(values) / len(values),
        low=low,
        high=high,
        self_normalised=math.fsum(w * d for w, d in zip(weights, discounts, strict=True)) / total if weights else None,
        clipped=clipped / len(weights) if weights else 0.0,
        clicks=len(weights),
        queries=len(values),
    )


def _weight(rank: int, eta: float, propensities: Sequence[float] | None) -> float:
    if propensities is None:
        return float(rank**eta)
    if rank > len(propensities):
        raise InputError(
            f"there is none for rank {rank}, at which a listing was clicked; give {rank} or more", field="propensities"
        )
    return 1 / propensities[rank - 1]


@dataclass(frozen=True, slots=True)
class Interleaving:
    """Which of two systems simulated users prefer.

    Attributes:
        wins_a: Queries on which A won more sessions than B.
        wins_b: Queries on which B won more.
        ties: Queries on which both won equally many.
        share: A's share of all sessions, an undecided one shared equally, 0 to 1; 0.5 is no preference.
        p: Two-sided p of the sign test over queries without ties (scipy's ``binomtest``); 1 where all are ties.
    """

    wins_a: int
    wins_b: int
    ties: int
    share: float
    p: float


def interleave(
    a: Scores,
    b: Scores,
    qrels: Qrels,
    grades: Collection[int],
    *,
    user: User = "navigational",
    sessions: int = 20,
    k: int = 10,
    seed: int = 0,
) -> Interleaving:
    """Show simulated users both systems' results in one list, and count whose results they click.

    In each session the list is made by team draft (`genrank.search.feedback.interleaving.team_draft`). A user reads
    downwards, clicks with a chance that depends on the grade and, having clicked, stops with another; the team with
    more clicks wins the session.

    The three users are those of Hofmann, Whiteson & de Rijke (2013), with the chances for five grades of Schuth et al.
    (2014); the dataset's grades are spread over these by their place, lowest to highest. A listing without a judgement
    counts as the lowest. ``perfect`` reads everything and clicks what is relevant; ``navigational`` looks for one good
    result; ``informational`` clicks much, also what is not relevant.

    Args:
        a: Scores of A by query and listing; for ties see `eval.metrics`.
        b: Scores of B, of the same queries.
        qrels: Judgements.
        grades: All grades of the dataset.
        user: ``perfect``, ``navigational`` or ``informational``.
        sessions: How often each query is asked, 1 or more.
        k: Length of the list, 1 or more.
        seed: Seed of coins and clicks.

    Raises:
        InputError: When the two do not hold the same queries, there is no query, a setting is out of range, or a shown
            listing's grade is none of `grades`.
        MissingExtraError: When scipy is not installed.
    """
    if not a or a.keys() != b.keys():
        odd = f"query {min(a.keys() ^ b.keys())!r} is in only one of a and b" if a.keys() ^ b.keys() else "no query"
        raise InputError(odd, field="a")
    if user not in _CLICK:
        raise InputError(f"must be one of {', '.join(_CLICK)}, got {user!r}", field="user")
    if min(sessions, k) < 1:
        raise InputError(f"must be 1 or more, got {min(sessions, k)}", field="sessions" if sessions < 1 else "k")
    click, stop = _chances(user, grades)
    wins = [0, 0, 0]
    total = 0
    for query in a:
        # one generator a query: the result depends on no other query
        rng = random.Random(f"{seed} {query}")
        orders = (best_first(a[query]), best_first(b[query]))
        judged = qrels.get(query, {})
        lead = 0
        for _ in range(sessions):
            credit = _session(team_draft(*orders, k, rng), judged, click, stop, rng)
            lead += (credit > 0) - (credit < 0)
        wins[0 if lead > 0 else 1 if lead < 0 else 2] += 1
        total += lead
    share = (1 + total / (sessions * len(a))) / 2
    return Interleaving(wins[0], wins[1], wins[2], share=share, p=sign_test(wins[0], wins[1]))


def _chances(user: User, grades: Collection[int]) -> tuple[dict[int | None, float], dict[int | None, float]]:
    """The chances of a click and of a stop by grade; None stands for no judgement."""
    if not grades:
        raise InputError("the dataset names no grade", field="grades")
    ordered = sorted(grades)
    places: dict[int | None, float] = {None: 0.0}
    for i, grade in enumerate(ordered):
        places[grade] = i / (len(ordered) - 1) if len(ordered) > 1 else 1.0
    five = np.linspace(0, 1, 5)
    click = {grade: float(np.interp(x, five, _CLICK[user])) for grade, x in places.items()}
    stop = {grade: float(np.interp(x, five, _STOP[user])) for grade, x in places.items()}
    return click, stop


def _session(
    shown: Sequence[tuple[str, int]],
    judged: Mapping[str, int],
    click: Mapping[int | None, float],
    stop: Mapping[int | None, float],
    rng: random.Random,
) -> int:
    """A's clicks minus B's."""
    credit = 0
    for listing, team in shown:
        grade = judged.get(listing)
        if grade not in click:
            raise InputError(f"listing {listing!r} has grade {grade}, which the dataset does not name", field="qrels")
        if rng.random() < click[grade]:
            credit += 1 if team == 0 else -1
            if rng.random() < stop[grade]:
                break
    return credit


def sign_test(wins_a: int, wins_b: int) -> float:
    """Two-sided p of the sign test (scipy's ``binomtest``); 1 without wins.

    Args:
        wins_a: Wins of one side.
        wins_b: Wins of the other.

    Raises:
        MissingExtraError: When scipy is not installed.
    """
    if not wins_a + wins_b:
        return 1.0
    try:
        from scipy.stats import binomtest
    except ImportError:
        raise MissingExtraError("scipy", "eval") from None
    return float(binomtest(wins_a, wins_a + wins_b).pvalue)
