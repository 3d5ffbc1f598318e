"""Metrics over the candidates, computed with ranx: nDCG, MRR, MAP, precision and recall.

A reranker can only order the candidates it was given, so all metrics are relative to these: the ideal order of nDCG is
the best order of the query's *candidates*, not of all its judged listings, and recall counts relevant candidates. A
candidate without a judgement has gain 0 and is not relevant. A query without any candidate that has a gain (or is
relevant) scores 0 in every order. Both are counted.

With ``g_i`` the gain at rank ``i`` and ``x_i = 1`` where the listing at rank ``i`` is relevant, else 0:

- ``nDCG@k = DCG@k / ideal DCG@k``, ``DCG@k = sum over ranks i <= k of g_i / log2(i + 1)``, three times: with the
  dataset's own gains, with ``g = grade`` (``nDCG-linear``, Järvelin & Kekäläinen 2002) and with ``g = 2^grade - 1``
  (``nDCG-exponential``, Burges et al. 2005).
- ``MRR``: mean of ``1 / rank`` of the first relevant listing.
- ``MAP``: mean of ``AP = 1/R * sum over i of x_i * (x_1 + ... + x_i) / i``, ``R`` the number of relevant candidates.
- ``P@k = (x_1 + ... + x_k) / k``, also where there are fewer than ``k`` candidates; ``R@k = (x_1 + ... + x_k) / R``.

**Ties.** Equal scores are ordered by falling listing id (code point order), which is trec_eval's rule: neither the
order of the lines in a file nor the order of the candidates changes a number, and every tool that follows trec_eval
(such as ``ir_measures``) sees the same order. `run_of` leaves no ties, so that a run is measured in the order in which
`genrank.data.trec.write_run` writes it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from genrank.data.dataset import Dataset, Grade
from genrank.data.trec import Qrels, Run, falling
from genrank.errors import InputError, MissingExtraError
from genrank.types import Ranking, Request

try:
    import numpy as np
    import numpy.typing as npt
except ImportError:
    raise MissingExtraError("numpy", "eval") from None


def listing_ids(ranking: Ranking) -> list[str]:
    """Best first."""
    return [item.listing_id for item in ranking.items]


def ndcg_of(dataset: Dataset, requests: Sequence[Request], orders: Sequence[Sequence[str]]) -> float:
    """Mean nDCG@10 of orders, ``[b][n]`` listing ids, best first, with the dataset's gains."""
    scores = [
        [-float(order.index(candidate.listing.listing_id)) for candidate in request.candidates]
        for request, order in zip(requests, orders, strict=True)
    ]
    return ndcg(dataset, requests, scores, 10)


Candidates = Mapping[str, Collection[str]]
"""``{query_id: listing ids that were to be ordered}``."""

Scores = Mapping[str, Mapping[str, float]]
"""``{query_id: {listing_id: score}}``, higher is better, in any order."""

CUTOFFS = (5, 10, 20)
MAX_GRADE = 1000
_MAX_GAIN = 1e100
_CHUNK_CELLS = 500_000
_NO_JUDGEMENT = -1

_Worth = Literal["gain", "grade", "hit"]
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures of a run.

    Attributes:
        means: Mean over queries by metric, such as ``{"nDCG@10": 0.82, "MRR": 0.9}``; 0 to 1.
        per_query: The same for each query, ``{metric: {query_id: value}}``.
        queries: Number of queries.
        unjudged: Candidates without a judgement, over all queries.
        without_gain: Queries none of whose candidates has a gain (every nDCG with the dataset's gains is 0).
        without_relevant: Queries none of whose candidates is relevant (MRR, MAP, P and R are 0).
    """

    means: dict[str, float]
    per_query: dict[str, dict[str, float]]
    queries: int
    unjudged: int
    without_gain: int
    without_relevant: int


def relevant_grade(grades: Collection[int]) -> int:
    """The lowest grade that counts as relevant by default: the upper half of the grades is relevant.

    Of 0 to 3 it is 2, of 0 to 2 it is 2, of 0 to 6 it is 4, of 0 and 1 it is 1.

    Raises:
        InputError: When there is no grade.
    """
    if not grades:
        raise InputError("the dataset names no grade", field="grades")
    ordered = sorted(grades)
    return ordered[min((len(ordered) + 1) // 2, len(ordered) - 1)]


def best_first(scores: Mapping[str, float]) -> list[str]:
    """Listing ids by falling score; ties by falling id, as in trec_eval."""
    ids = sorted(scores, reverse=True)
    # a reversed sort keeps the order of ties
    ids.sort(key=scores.__getitem__, reverse=True)
    return ids


def measure(
    run: Scores,
    candidates: Candidates,
    qrels: Qrels,
    grades: Mapping[int, Grade],
    *,
    k: int = 10,
    cutoffs: Sequence[int] = CUTOFFS,
    relevant: int | None = None,
) -> Measured:
    """Measure a run by ranx.

    Args:
        run: Scores by query and listing; for ties see the top of this module.
        candidates: What each query's run should have ordered.
        qrels: Judgements; those of other pairs are not looked at. A query may have none.
        grades: The gain of each grade.
        k: Depth of ``nDCG-linear``, ``nDCG-exponential``, ``P`` and ``R``, 1 or more.
        cutoffs: Depths of nDCG with the dataset's gains, each 1 or more; `k` is one of them in any case.
        relevant: Lowest grade that is relevant; None takes `relevant_grade`.

    Returns:
        ``nDCG@c`` for each cutoff, ``nDCG-linear@k``, ``nDCG-exponential@k``, ``MRR``, ``MAP``, ``P@k``, ``R@k``.

    Raises:
        InputError: When the run and the candidates do not hold the same queries; a query's run holds a listing that
            is not a candidate, or a candidate is missing or repeated; a score is not a finite number; a candidate's
            grade is not in `grades`, or one of these is out of range; `k` or a cutoff is less than 1.
        MissingExtraError: When ranx is not installed.
    """
    _check(run, candidates)
    scale = _Scale.make(grades, relevant)
    names = _metrics(k, cutoffs)
    per_query: dict[str, dict[str, float]] = {name: dict.fromkeys(candidates, 0.0) for name in names}
    unjudged = without_gain = without_relevant = 0
    for queries in _chunks(candidates):
        width = len(candidates[queries[-1]])
        found = np.full((len(queries), width), _NO_JUDGEMENT)
        for row, query in enumerate(queries):
            order = best_first(run[query])
            found[row, : len(order)] = scale.grades_of(query, order, qrels)
            unjudged += int(np.count_nonzero(found[row, : len(order)] == _NO_JUDGEMENT))
        worths = {worth: table[found] for worth, table in scale.tables.items()}
        without_gain += int(np.count_nonzero(~worths["gain"].any(axis=1)))
        without_relevant += int(np.count_nonzero(~worths["hit"].any(axis=1)))
        for worth, values in worths.items():
            asked = {name: metric for name, (of, metric) in names.items() if of == worth}
            for name, column in zip(asked, _ranx(values, list(asked.values())), strict=True):
                per_query[name].update(zip(queries, column.tolist(), strict=True))
    return Measured(
        means={name: math.fsum(values.values()) / len(values) for name, values in per_query.items()},
        per_query=per_query,
        queries=len(run),
        unjudged=unjudged,
        without_gain=without_gain,
        without_relevant=without_relevant,
    )


def run_of(requests: Sequence[Request], scores: Sequence[Sequence[float]]) -> Run:
    """A run of candidates' scores that fall strictly, so that every tool reads back one and the same order.

    Equal scores come in the order of the candidates, each lowered by the least step: see `falling`.

    Args:
        requests: ``[b]``, each with its own query id.
        scores: ``[b][n]`` finite scores in each request's order; higher is better.
    """
    run: Run = {}
    for request, values in zip(requests, scores, strict=True):
        ids = [candidate.listing.listing_id for candidate in request.candidates]
        ranked = sorted(zip(ids, map(float, values), strict=True), key=lambda pair: -pair[1])
        lowered = falling([score for _, score in ranked])
        run[request.query.query_id] = {key: score for (key, _), score in zip(ranked, lowered, strict=True)}
    return run


def candidate_ids(requests: Sequence[Request]) -> dict[str, list[str]]:
    """``{query_id: listing ids}`` of requests, in the order in which the candidates came."""
    return {r.query.query_id: [candidate.listing.listing_id for candidate in r.candidates] for r in requests}


def ndcg(dataset: Dataset, requests: Sequence[Request], scores: Sequence[Sequence[float]], k: int) -> float:
    """Mean nDCG@k of scores, with the dataset's gains.

    Args:
        dataset: Gives judgements and gains.
        requests: ``[b]``.
        scores: ``[b][n]``; see `run_of`.
        k: Depth, 1 or more.
    """
    measured = measure(run_of(requests, scores), candidate_ids(requests), dataset.qrels, dataset.grades, k=k)
    return measured.means[f"nDCG@{k}"]


def align(run: Scores, candidates: Candidates) -> tuple[Run, dict[str, int]]:
    """Make a run from elsewhere order exactly the candidates, and count the changes.

    Listings that are not candidates are dropped; candidates that the run lacks come last, in their given order; a query
    that the run lacks keeps the given order of its candidates.

    Args:
        run: Scores by query and listing; for ties see the top of this module.
        candidates: What each query should have ordered, in the first stage's order.

    Returns:
        The run, whose scores fall strictly, in the candidates' order of queries; and the counts
        ``unknown_queries``, ``missing_queries``, ``unknown_listings`` and ``missing_listings`` (the last two over the
        queries that both sides have).

    Raises:
        InputError: When a score is not a finite number, or run and candidates have no pair of query and listing in
            common.
    """
    _check_candidates(candidates)
    counts = {
        "unknown_queries": len(run.keys() - candidates.keys()),
        "missing_queries": len(candidates.keys() - run.keys()),
        "unknown_listings": 0,
        "missing_listings": 0,
    }
    aligned: Run = {}
    kept = 0
    for query, ids in candidates.items():
        scores = run.get(query, {})
        _check_scores(query, scores)
        wanted = set(ids)
        order = [key for key in best_first(scores) if key in wanted]
        kept += len(order)
        if query in run:
            counts["unknown_listings"] += len(scores) - len(order)
            counts["missing_listings"] += len(wanted) - len(order)
        order += [key for key in ids if key not in scores]
        aligned[query] = {key: float(len(order) - i) for i, key in enumerate(order)}
    if not kept:
        raise InputError(_nothing_shared(run, candidates), field="run")
    return aligned, counts


def _nothing_shared(run: Scores, candidates: Candidates) -> str:
    def examples(ids: Collection[str]) -> str:
        return ", ".join(repr(key) for key in sorted(ids)[:3]) or "none"

    shared = sorted(run.keys() & candidates.keys())
    if not shared:
        ours, theirs = examples(candidates), examples(run)
        return f"it has no query of this dataset's; the run's queries are such as {theirs}, the dataset's {ours}"
    ours, theirs = examples(candidates[shared[0]]), examples(run[shared[0]])
    return (
        f"it has none of the candidates; its listings for query {shared[0]!r} are such as {theirs}, "
        f"the candidates {ours}"
    )


def _check(run: Scores, candidates: Candidates) -> None:
    _check_candidates(candidates)
    if run.keys() != candidates.keys():
        odd = min(run.keys() ^ candidates.keys())
        raise InputError(f"query {odd!r} is in only one of run and candidates", field="run")
    for query, ids in candidates.items():
        if odd_ids := run[query].keys() ^ set(ids):
            odd = min(odd_ids)
            trouble = "is not a candidate" if odd in run[query] else "was lost"
            raise InputError(f"query {query!r}: listing {odd!r} {trouble}", field="run")
        _check_scores(query, run[query])


def _check_candidates(candidates: Candidates) -> None:
    if not candidates:
        raise InputError("no query to measure", field="candidates")
    for query, ids in candidates.items():
        if not ids:
            raise InputError(f"query {query!r} has no candidate", field="candidates")
        if len(set(ids)) != len(ids):
            odd = next(key for i, key in enumerate(ids) if key in list(ids)[:i])
            raise InputError(f"query {query!r}: listing {odd!r} comes twice", field="candidates")


def _check_scores(query: str, scores: Mapping[str, float]) -> None:
    if not all(map(math.isfinite, scores.values())):
        odd = min(key for key, score in scores.items() if not math.isfinite(score))
        raise InputError(
            f"query {query!r}: the score of listing {odd!r} is not a finite number, got {scores[odd]}", field="run"
        )


def _metrics(k: int, cutoffs: Sequence[int]) -> dict[str, tuple[_Worth, str]]:
    """By metric: on what ranx has to measure it, and what ranx calls it."""
    least = min((k, *cutoffs))
    if least < 1:
        raise InputError(f"must be 1 or more, got {least}", field="k" if k < 1 else "cutoffs")
    names: dict[str, tuple[_Worth, str]] = {f"nDCG@{c}": ("gain", f"ndcg@{c}") for c in sorted({*cutoffs, k})}
    names[f"nDCG-linear@{k}"] = ("grade", f"ndcg@{k}")
    names[f"nDCG-exponential@{k}"] = ("grade", f"ndcg_burges@{k}")
    names["MRR"] = ("hit", "mrr")
    names["MAP"] = ("hit", "map")
    names[f"P@{k}"] = ("hit", f"precision@{k}")
    names[f"R@{k}"] = ("hit", f"recall@{k}")
    return names


@dataclass(frozen=True, slots=True)
class _Scale:
    """What grades are worth: a value for each grade, and 0 at `_NO_JUDGEMENT` (the last place)."""

    known: frozenset[int | None]
    tables: dict[_Worth, _Floats]

    @classmethod
    def make(cls, grades: Mapping[int, Grade], relevant: int | None) -> _Scale:
        threshold = relevant_grade(grades) if relevant is None else relevant
        for grade, meaning in grades.items():
            if not 0 <= grade <= MAX_GRADE:
                raise InputError(f"a grade must be 0 to {MAX_GRADE}, got {grade}", field="grades")
            if not (meaning.gain == 0 or 1 / _MAX_GAIN <= meaning.gain <= _MAX_GAIN):
                raise InputError(
                    f"the gain of grade {grade} must be 0, or {1 / _MAX_GAIN} to {_MAX_GAIN}, got {meaning.gain}",
                    field="grades",
                )
        if threshold not in grades:
            raise InputError(f"no grade {threshold}; the grades are {sorted(grades)}", field="relevant")
        tables: dict[_Worth, _Floats] = {worth: np.zeros(max(grades) + 2) for worth in ("gain", "grade", "hit")}
        for grade, meaning in grades.items():
            tables["gain"][grade] = meaning.gain
            tables["grade"][grade] = grade
            tables["hit"][grade] = grade >= threshold
        # ranx takes what is less than 1 for not relevant; a power of two changes no digit of a gain, and no nDCG
        if tables["gain"].any():
            least = tables["gain"][tables["gain"] > 0].min()
            tables["gain"] *= 2.0 ** -math.floor(math.log2(least))
        return cls(frozenset({None, *grades}), tables)

    def grades_of(self, query: str, ids: Collection[str], qrels: Qrels) -> list[int]:
        """The grade of each listing, `_NO_JUDGEMENT` where there is none."""
        judged = qrels.get(query, {})
        found = [judged.get(key) for key in ids]
        if not self.known.issuperset(found):
            odd, grade = next((key, grade) for key, grade in zip(ids, found, strict=True) if grade not in self.known)
            known = sorted(grade for grade in self.known if grade is not None)
            raise InputError(
                f"query {query!r}: listing {odd!r} has grade {grade}; the dataset's grades are {known}", field="qrels"
            )
        return [_NO_JUDGEMENT if grade is None else grade for grade in found]


def _chunks(candidates: Candidates) -> Iterator[list[str]]:
    """Chunks of queries with similar numbers of candidates, each small enough to be one array."""
    chunk: list[str] = []
    for query in sorted(candidates, key=lambda query: len(candidates[query])):
        if chunk and (len(chunk) + 1) * len(candidates[query]) > _CHUNK_CELLS:
            yield chunk
            chunk = []
        chunk.append(query)
    yield chunk


def _ranx(values: _Floats, metrics: list[str]) -> list[_Floats]:
    """Measure orders with ranx, but without its dictionaries: a listing's name is its rank.

    Args:
        values: Worth of the listing at each rank, ``[queries, ranks]``; 0 after the end of a shorter list.
        metrics: Their names in ranx.

    Returns:
        A value for each query, ``[queries]``, by metric.
    """
    try:
        import ranx
    except ImportError:
        raise MissingExtraError("ranx", "eval") from None
    ranks = np.broadcast_to(np.arange(values.shape[1], dtype=np.float64), values.shape)
    best = np.argsort(-values, axis=1, kind="stable")
    qrels = np.stack([best.astype(np.float64), np.take_along_axis(values, best, axis=1)], axis=2)
    run = np.stack([ranks, values.shape[1] - ranks], axis=2)
    # MRR twice does no harm, and ranx answers with a dictionary only where it is asked for two metrics or more
    found: dict[str, Any] = ranx.evaluate(qrels, run, [*metrics, "mrr"], return_mean=False, save_results_in_run=False)
    return [found[metric] for metric in metrics]


@dataclass(frozen=True, slots=True)
class Floor:
    """The figures of random orders of the candidates.

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
    cutoffs: Sequence[int] = CUTOFFS,
    relevant: int | None = None,
) -> dict[str, Floor]:
    """Expectation and deviation of each metric over all random orders, computed exactly, without sampling.

    A listing stands at each rank equally often, so ``E[DCG@k] = mean gain * sum of discounts``, and the variance of
    such a sum over permutations is ``sum (d - mean d)^2 * sum (g - mean g)^2 / (n - 1)`` (Hoeffding 1951). With ``r``
    relevant of ``n``, the first relevant one has rank ``t`` in ``C(n - t, r - 1)`` of ``C(n, r)`` cases; the number of
    them in the first ``k`` is hypergeometric; and the moments of AP are summed up rank by rank over the number of
    relevant listings so far.

    Args:
        candidates: What each query orders.
        qrels: Judgements.
        grades: The gain of each grade.
        k: As in `measure`.
        cutoffs: As in `measure`.
        relevant: As in `measure`.

    Returns:
        By metric, as in `measure`.

    Raises:
        InputError: When there is no query, a query has no candidate or one twice, or `measure` would refuse the grades.
    """
    _check_candidates(candidates)
    scale = _Scale.make(grades, relevant)
    names = _metrics(k, cutoffs)
    exponential = np.exp2(scale.tables["grade"]) - 1
    moments: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for query, ids in candidates.items():
        found = np.array(scale.grades_of(query, ids, qrels))
        n, hits = len(found), int(scale.tables["hit"][found].sum())
        for name in names:
            kind, _, depth = name.partition("@")
            match kind:
                case "nDCG":
                    one = _random_ndcg(scale.tables["gain"][found], int(depth))
                case "nDCG-linear":
                    one = _random_ndcg(scale.tables["grade"][found], k)
                case "nDCG-exponential":
                    one = _random_ndcg(exponential[found], k)
                case "MRR":
                    one = _random_reciprocal_rank(n, hits)
                case "MAP":
                    one = _random_average_precision(n, hits)
                case "P":
                    one = _random_share(n, hits, k, k)
                case _:
                    one = _random_share(n, hits, k, hits)
            moments[name].append(one)
    return {name: _floor(pairs) for name, pairs in moments.items()}


def _floor(moments: Sequence[tuple[float, float]]) -> Floor:
    mean = math.fsum(mean for mean, _ in moments) / len(moments)
    return Floor(mean, math.sqrt(math.fsum(variance for _, variance in moments)) / len(moments))


@functools.lru_cache(maxsize=1024)
def _discounts(n: int, k: int) -> _Floats:
    ranks = np.arange(1, n + 1)
    return np.where(ranks <= k, 1 / np.log2(ranks + 1), 0.0)


def _random_ndcg(gains: _Floats, k: int) -> tuple[float, float]:
    """Mean and variance of nDCG@k over the orders of these gains."""
    best = gains.max()
    if best == 0:
        return 0.0, 0.0
    gains = gains / best
    discounts = _discounts(len(gains), k)
    ideal = discounts @ np.sort(gains)[::-1]
    spread = ((discounts - discounts.mean()) ** 2).sum() * ((gains - gains.mean()) ** 2).sum()
    return float(gains.mean() * discounts.sum() / ideal), float(spread / max(len(gains) - 1, 1) / ideal**2)


def _cached(function: Callable[[int, int], tuple[float, float]]) -> Callable[[int, int], tuple[float, float]]:
    return functools.lru_cache(maxsize=65_536)(function)


@_cached
def _random_reciprocal_rank(n: int, hits: int) -> tuple[float, float]:
    """Mean and variance of 1 / rank of the first of `hits` relevant ones in a random order of `n`."""
    if hits == 0:
        return 0.0, 0.0
    ranks = np.arange(1, n - hits + 2)
    # C(n - t, r - 1) / C(n - t + 1, r - 1) = (n - t + 1 - r + 1) / (n - t + 1)
    steps = (n - ranks - hits + 2) / (n - ranks + 1)
    steps[0] = hits / n
    chances = np.cumprod(steps)
    mean = float((chances / ranks).sum())
    return mean, max(float((chances / ranks**2).sum()) - mean**2, 0.0)


@_cached
def _random_average_precision(n: int, hits: int) -> tuple[float, float]:
    """Mean and variance of AP with `hits` relevant ones in a random order of `n`.

    The chance that the next rank holds a relevant one depends only on how many there were; so three sums are kept for
    each such number: its chance, and the expectations of ``R * AP`` and of its square so far, over these cases.
    """
    if hits == 0:
        return 0.0, 0.0
    seen = np.arange(hits + 1)
    chance, first, second = np.zeros((3, hits + 1))
    chance[0] = 1.0
    for rank in range(1, n + 1):
        more = np.minimum((hits - seen) / (n - rank + 1), 1.0)
        gain = (seen + 1) / rank
        up = np.stack([chance, first + gain * chance, second + 2 * gain * first + gain**2 * chance]) * more
        chance, first, second = np.stack([chance, first, second]) * (1 - more) + np.roll(up, 1, axis=1)
    mean = float(first[hits]) / hits
    return mean, max(float(second[hits]) / hits**2 - mean**2, 0.0)


def _random_share(n: int, hits: int, k: int, of: int) -> tuple[float, float]:
    """Mean and variance of the relevant ones among the first `k`, divided by `of`; hypergeometric."""
    if hits == 0:
        return 0.0, 0.0
    drawn, share = min(k, n), hits / n
    return drawn * share / of, drawn * share * (1 - share) * (n - drawn) / max(n - 1, 1) / of**2
