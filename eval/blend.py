"""A weighted sum of two systems' scores, such as a first stage's and a reranker's."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from eval.config import BlendSystem
from eval.systems import Scores, SystemResult
from genrank.data.dataset import Dataset
from genrank.experiment.metrics import candidate_ids, measure, run_of
from genrank.types import Request

WEIGHTS = tuple(i / 20 for i in range(21))
"""The weights to try."""


def blend(
    system: BlendSystem,
    results: Mapping[str, SystemResult],
    requests: Sequence[Request],
    dataset: Dataset,
    fitted_on: Callable[[], tuple[Sequence[Request], Mapping[str, SystemResult]]],
    k: int,
) -> tuple[SystemResult, float]:
    """The blend of two results, and the weight of its first system.

    Args:
        system: The two parts, and the weight if it is given.
        results: Results of all systems so far, by name.
        requests: ``[b]`` that these results rank.
        dataset: The dataset that the requests come from.
        fitted_on: Gives the requests and results on which the weight is fitted; see `fit_weight`.
        k: Depth of nDCG.
    """
    weight = system.weight
    if weight is None:
        others, found = fitted_on()
        one, other = (standard_scores(found[name], others) for name in system.systems)
        worth = {w: _each(dataset, others, _mixed(one, other, w), k) for w in WEIGHTS}
        weight = fit_weight(worth)
    first, second = (results[name] for name in system.systems)
    scores = _mixed(standard_scores(first, requests), standard_scores(second, requests), weight)
    seconds, load = first.seconds + second.seconds, first.load_seconds + second.load_seconds
    return SystemResult(run_of(requests, scores), seconds, load, cached=first.cached or second.cached), weight


def fit_weight(worth: Mapping[float, Sequence[float]]) -> float:
    """Of the weights within one standard error of the best, the one nearest to one half.

    The rule of one standard error (Breiman et al., Classification and Regression Trees, 1984): the few queries of a dev
    split cannot tell similar weights apart, and the best one is often 0 or 1 by chance.

    Args:
        worth: nDCG of each query by weight, for the same queries; at least one.
    """
    best = max(worth, key=lambda weight: (round(statistics.fmean(worth[weight]), 9), -abs(weight - 0.5)))

    def is_as_good(weight: float) -> bool:
        lost = [most - found for most, found in zip(worth[best], worth[weight], strict=True)]
        error = statistics.stdev(lost) / math.sqrt(len(lost)) if len(lost) > 1 else 0.0
        return statistics.fmean(lost) <= error + 1e-9

    return min(filter(is_as_good, worth), key=lambda weight: abs(weight - 0.5))


def _each(dataset: Dataset, requests: Sequence[Request], scores: Scores, k: int) -> list[float]:
    """nDCG@k of each request."""
    measured = measure(run_of(requests, scores), candidate_ids(requests), dataset.qrels, dataset.grades, k=k)
    return list(measured.per_query[f"nDCG@{k}"].values())


def standard_scores(result: SystemResult, requests: Sequence[Request]) -> Scores:
    """``[b][n]`` scores of mean 0 and deviation 1 within each request; a probability counts as its log-odds."""
    return [_standard(_scores(result, request)) for request in requests]


def _scores(result: SystemResult, request: Request) -> list[float]:
    ids = [candidate.listing.listing_id for candidate in request.candidates]
    if result.probabilities is None:
        return [result.run[request.query.query_id][key] for key in ids]
    chances = [result.probabilities[request.query.query_id][key] for key in ids]
    least = 1e-9
    return [math.log(max(chance, least) / max(1 - chance, least)) for chance in chances]


def _standard(scores: Sequence[float]) -> list[float]:
    mean, deviation = statistics.fmean(scores), statistics.pstdev(scores)
    return [(score - mean) / deviation if deviation else 0.0 for score in scores]


def _mixed(first: Scores, second: Scores, weight: float) -> list[list[float]]:
    return [
        [weight * x + (1 - weight) * y for x, y in zip(a, b, strict=True)] for a, b in zip(first, second, strict=True)
    ]
