"""A weighted sum of two systems' scores, such as a first stage's and a reranker's."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from eval.config import BlendSystem
from eval.systems import Scores, SystemResult
from genrank.blending import scaled, standardised, weighted
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
        weight = fit_weight(worth_of_weights(one, other, others, dataset, k))
    first, second = (results[name] for name in system.systems)
    scores = mixed(standard_scores(first, requests), standard_scores(second, requests), weight)
    seconds, load = first.seconds + second.seconds, first.load_seconds + second.load_seconds
    return SystemResult(run_of(requests, scores), seconds, load, cached=first.cached or second.cached), weight


def worth_of_weights(
    first: Scores, second: Scores, requests: Sequence[Request], dataset: Dataset, k: int
) -> dict[float, list[float]]:
    """nDCG@k of each request by weight of the first, for `fit_weight`.

    Args:
        first: Standard scores, as of `standard_scores`.
        second: The same of the other system.
        requests: ``[b]`` that they rank.
        dataset: The dataset that the requests come from.
        k: Depth of nDCG.
    """
    return {weight: _each(dataset, requests, mixed(first, second, weight), k) for weight in WEIGHTS}


def fit_weight(worth: Mapping[float, Sequence[float]], towards: float = 0.5) -> float:
    """Of the weights within one standard error of the best, the one nearest to `towards`.

    The rule of one standard error (Breiman et al., Classification and Regression Trees, 1984): the few queries of a dev
    split cannot tell similar weights apart, and the best one is often 0 or 1 by chance.

    Args:
        worth: nDCG of each query by weight, for the same queries; at least one.
        towards: The weight that needs no evidence, 0 to 1.
    """
    best = max(worth, key=lambda weight: (round(statistics.fmean(worth[weight]), 9), -abs(weight - towards)))

    def is_as_good(weight: float) -> bool:
        lost = [most - found for most, found in zip(worth[best], worth[weight], strict=True)]
        error = statistics.stdev(lost) / math.sqrt(len(lost)) if len(lost) > 1 else 0.0
        return statistics.fmean(lost) <= error + 1e-9

    return min(filter(is_as_good, worth), key=lambda weight: abs(weight - towards))


def _each(dataset: Dataset, requests: Sequence[Request], scores: Scores, k: int) -> list[float]:
    """nDCG@k of each request."""
    measured = measure(run_of(requests, scores), candidate_ids(requests), dataset.qrels, dataset.grades, k=k)
    return list(measured.per_query[f"nDCG@{k}"].values())


def standard_scores(result: SystemResult, requests: Sequence[Request]) -> Scores:
    """``[b][n]`` scores of mean 0 and deviation 1 within each request, on the scale of `genrank.blending`."""
    return [standardised(_scores(result, request)) for request in requests]


def _scores(result: SystemResult, request: Request) -> list[float]:
    ids = [candidate.listing.listing_id for candidate in request.candidates]
    if result.probabilities is None:
        return [result.run[request.query.query_id][key] for key in ids]
    decoding = (result.rankings[0].provenance.decoding if result.rankings else "") or "inline"
    return scaled([result.probabilities[request.query.query_id][key] for key in ids], decoding)


def mixed(first: Scores, second: Scores, weight: float) -> list[list[float]]:
    """``[b][n]`` weighted sums of standard scores; `weight` is that of the first."""
    return [weighted(a, b, weight) for a, b in zip(first, second, strict=True)]
