"""What is measured: nDCG@k with the dataset's own gains, and MRR. Who computes it: ranx.

A reranker can only order the candidates it was given, so everything is relative to these: the ideal order of nDCG is
the best order of the query's *candidates*, not of all its judged listings. A candidate without a judgement has gain 0
and is counted. A query none of whose candidates has a gain scores 0 in any order and is counted.

- ``nDCG@k = DCG@k / ideal DCG@k``, ``DCG@k = sum over ranks i <= k of gain(grade_i) / log2(i + 1)``. ranx's linear
  ``ndcg`` (Järvelin & Kekäläinen 2002) takes the relevance itself as the gain, so it is handed gains, not grades.
- ``MRR``: mean of ``1 / rank`` of the first relevant listing, over the whole list; 0 where there is none.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from genrank.dataset import Grade, Qrels, Run
from genrank.errors import InputError, MissingExtraError

Candidates = Mapping[str, Collection[str]]
"""``{query_id: listing ids that were to be ordered}``."""

_GAIN_BITS = 44


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run is worth.

    Attributes:
        means: Mean over queries by metric, such as ``{"nDCG@10": 0.82, "MRR": 0.9}``; 0 to 1.
        per_query: The same for each query, ``{metric: {query_id: value}}``.
        queries: Number of queries.
        unjudged: Candidates without a judgement, over all queries.
        without_gain: Queries none of whose candidates has a gain.
        without_relevant: Queries none of whose candidates is relevant (MRR 0).
    """

    means: dict[str, float]
    per_query: dict[str, dict[str, float]]
    queries: int
    unjudged: int
    without_gain: int
    without_relevant: int


def relevant_grade(grades: Collection[int]) -> int:
    """The grade from which a listing counts as relevant where nothing else is said: the upper half of the grades.

    Of 0 to 3 it is 2, of 0 to 2 it is 2, of 0 to 6 it is 4, of 0 and 1 it is 1.
    """
    ordered = sorted(grades)
    return ordered[min((len(ordered) + 1) // 2, len(ordered) - 1)]


def measure(
    run: Mapping[str, Mapping[str, float]],
    candidates: Candidates,
    qrels: Qrels,
    grades: Mapping[int, Grade],
    *,
    k: int = 10,
    relevant: int | None = None,
) -> Measured:
    """Measure a run by ranx.

    Args:
        run: Scores by query and listing; higher is better, equal ones stand in the order they come.
        candidates: What each query's run should have ordered.
        qrels: Judgements.
        grades: The gain of each grade.
        k: Depth of nDCG, 1 or more.
        relevant: Lowest grade that is relevant for MRR; None takes `relevant_grade`.

    Raises:
        InputError: When the run and the candidates do not hold the same queries, or a query's run holds a listing
            that is no candidate, or a candidate is missing.
        MissingExtraError: When ranx is not installed.
    """
    _check(run, candidates)
    threshold = relevant_grade(grades) if relevant is None else relevant
    gains = {grade: meaning.gain for grade, meaning in grades.items()}
    # whole numbers are what ranx takes; a power of two as the scale keeps gains such as 1, 3, 7, 0.5 exact
    scale = 2.0 ** (_GAIN_BITS - math.frexp(max([*gains.values(), 0.0]))[1])
    worth: Qrels = {}
    hits: Qrels = {}
    unjudged = 0
    for query, ids in candidates.items():
        judged = qrels.get(query, {})
        worth[query] = {key: round(gains[judged[key]] * scale) if key in judged else 0 for key in ids}
        hits[query] = {key: int(judged.get(key, threshold - 1) >= threshold) for key in ids}
        unjudged += sum(key not in judged for key in ids)
    falling: Run = {}
    for query, scores in run.items():
        ids = sorted(scores, key=lambda key: -scores[key])
        falling[query] = {key: float(len(ids) - i) for i, key in enumerate(ids)}
    names = (f"nDCG@{k}", "MRR")
    per_query = {names[0]: _ranx(worth, falling, f"ndcg@{k}"), names[1]: _ranx(hits, falling, "mrr")}
    return Measured(
        means={name: math.fsum(values.values()) / len(values) for name, values in per_query.items()},
        per_query=per_query,
        queries=len(run),
        unjudged=unjudged,
        without_gain=sum(not any(values.values()) for values in worth.values()),
        without_relevant=sum(not any(values.values()) for values in hits.values()),
    )


def _check(run: Mapping[str, Mapping[str, float]], candidates: Candidates) -> None:
    if not candidates:
        raise InputError("no query to measure", field="candidates")
    if run.keys() != candidates.keys():
        odd = min(run.keys() ^ candidates.keys())
        raise InputError(f"query {odd!r} is in only one of run and candidates", field="run")
    for query, ids in candidates.items():
        if not ids:
            raise InputError(f"query {query!r} has no candidate", field="candidates")
        if odd_ids := run[query].keys() ^ set(ids):
            odd = min(odd_ids)
            trouble = "is no candidate" if odd in run[query] else "was lost"
            raise InputError(f"query {query!r}: listing {odd!r} {trouble}", field="run")


def _ranx(qrels: Qrels, run: Run, metric: str) -> dict[str, float]:
    try:
        import ranx
    except ImportError:
        raise MissingExtraError("ranx", "eval") from None
    with warnings.catch_warnings():
        # numba says this of ranx's own code, when it compiles it for the first time
        warnings.filterwarnings("ignore", message=".*unsafe cast from uint64 to int64")
        table = ranx.Run(run)
        # two metrics, since ranx loses the name of a single one with a depth, such as ndcg@10
        values = ranx.evaluate(ranx.Qrels(qrels), table, [metric, "mrr"], return_mean=False, save_results_in_run=False)[
            metric
        ]
        return dict(zip(table.keys(), (float(value) for value in values), strict=True))


@dataclass(frozen=True, slots=True)
class Floor:
    """What random orders of the candidates are worth.

    Attributes:
        mean: Expectation of the mean over queries.
        deviation: Standard deviation of that mean from one random run to the next.
    """

    mean: float
    deviation: float


def random_floor(
    candidates: Candidates,
    qrels: Qrels,
    grades: Mapping[int, Grade],
    *,
    k: int = 10,
    relevant: int | None = None,
) -> dict[str, Floor]:
    """Expectation and deviation of each metric over all random orders, exactly, without drawing any.

    A listing stands at each rank equally often, so ``E[DCG@k] = mean gain * sum of discounts``, and the variance of
    such a sum over permutations is ``sum (d - mean d)^2 * sum (g - mean g)^2 / (n - 1)`` (Hoeffding 1951). With ``r``
    relevant of ``n``, the first relevant one has rank ``t`` in ``C(n - t, r - 1)`` of ``C(n, r)`` cases.

    Args:
        candidates: What each query orders.
        qrels: Judgements.
        grades: The gain of each grade.
        k: Depth of nDCG, 1 or more.
        relevant: Lowest grade that is relevant for MRR; None takes `relevant_grade`.

    Returns:
        By metric, as in `measure`.

    Raises:
        InputError: When there is no query.
    """
    if not candidates:
        raise InputError("no query to measure", field="candidates")
    threshold = relevant_grade(grades) if relevant is None else relevant
    ndcg: list[tuple[float, float]] = []
    rank: list[tuple[float, float]] = []
    for query, ids in candidates.items():
        judged = qrels.get(query, {})
        ndcg.append(_random_ndcg([grades[judged[key]].gain if key in judged else 0.0 for key in ids], k))
        hits = sum(judged.get(key, threshold - 1) >= threshold for key in ids)
        rank.append(_random_reciprocal_rank(len(ids), hits))
    return {f"nDCG@{k}": _floor(ndcg), "MRR": _floor(rank)}


def _floor(moments: Sequence[tuple[float, float]]) -> Floor:
    mean = math.fsum(mean for mean, _ in moments) / len(moments)
    return Floor(mean, math.sqrt(math.fsum(variance for _, variance in moments)) / len(moments))


def _random_ndcg(gains: Sequence[float], k: int) -> tuple[float, float]:
    """Mean and variance of nDCG@k over the orders of these gains."""
    n = len(gains)
    discounts = [1 / math.log2(i + 2) if i < k else 0.0 for i in range(n)]
    ideal = math.fsum(d * g for d, g in zip(discounts, sorted(gains, reverse=True), strict=True))
    if ideal == 0:
        return 0.0, 0.0
    mean_gain, mean_discount = math.fsum(gains) / n, math.fsum(discounts) / n
    spread = math.fsum((d - mean_discount) ** 2 for d in discounts) * math.fsum((g - mean_gain) ** 2 for g in gains)
    return mean_gain * math.fsum(discounts) / ideal, spread / max(n - 1, 1) / ideal**2


def _random_reciprocal_rank(n: int, hits: int) -> tuple[float, float]:
    """Mean and variance of 1 / rank of the first of `hits` relevant ones in a random order of `n`."""
    if hits == 0:
        return 0.0, 0.0
    chances = [math.comb(n - t, hits - 1) / math.comb(n, hits) for t in range(1, n - hits + 2)]
    mean = math.fsum(p / t for t, p in enumerate(chances, start=1))
    return mean, max(math.fsum(p / t**2 for t, p in enumerate(chances, start=1)) - mean**2, 0.0)
