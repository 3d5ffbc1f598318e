"""How much the ranking depends on the order in which the candidates are shown.

The candidates of each query are ranked in some random orders. Kendall's tau between each two of the answers is 1 for a
system that only reads what the listings say. Several passes (permutation self-consistency, arXiv 2310.07712) raise it,
at a price.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from eval.robustness.injection import estimate
from eval.robustness.remember import Remembering
from eval.robustness.requests import rank, shuffled
from eval.significance import compare
from genrank.data.dataset import Dataset
from genrank.experiment.metrics import candidate_ids, measure
from genrank.permutation import kendall_tau, mean_tau
from genrank.progress import track
from genrank.reranker import Reranker
from genrank.types import Ranking, Request

_Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class PassesResult:
    """The results of one number of passes.

    Attributes:
        tau: ``[queries]`` mean Kendall's tau between the rankings of each two shuffles.
        tau_shown: ``[queries]`` mean Kendall's tau between a ranking and the order shown; 0 is no bias.
        ndcg: ``[queries, shuffles]`` nDCG.
        prompt_tokens: Mean over calls.
        completion_tokens: Mean over calls.
        seconds: The engine's mean seconds for a call.
    """

    tau: _Floats
    tau_shown: _Floats
    ndcg: _Floats
    prompt_tokens: float
    completion_tokens: float
    seconds: float


def measure_order(
    requests: Sequence[Request],
    dataset: Dataset,
    rerankers: Mapping[int, Reranker],
    engine: Remembering,
    *,
    shuffles: int,
    k: int,
    seed: int,
    words: str,
) -> dict[str, Any]:
    """Measure one system.

    Args:
        requests: ``[queries]``.
        dataset: Gives judgements and gains.
        rerankers: The system, by number of passes; costs and gains are relative to the first.
        engine: The rerankers' engine.
        shuffles: Random orders of each query's candidates.
        k: Depth of nDCG.
        seed: Seed of the shuffles and the statistics.
        words: Label of the progress bar.

    Returns:
        The system's part of results.json: one entry for each number of passes.

    Raises:
        GenrankError: Whatever the system raises.
    """
    found = {}
    for passes, reranker in rerankers.items():
        found[passes] = ask(reranker, requests, dataset, engine, shuffles, k, seed, f"{words}, passes {passes}")
    first = next(iter(found.values()))
    return {"passes": {str(passes): _summary(result, first, k, seed) for passes, result in found.items()}}


def ask(
    reranker: Reranker,
    requests: Sequence[Request],
    dataset: Dataset,
    engine: Remembering,
    shuffles: int,
    k: int,
    seed: int,
    words: str,
) -> PassesResult:
    """Rank the shuffled candidates of each query."""
    before = engine.seconds
    taus, taus_shown = [], []
    rankings: list[list[Ranking]] = []
    for request in track(requests, words, total=len(requests)):
        shown = [shuffled(request, seed, number) for number in range(shuffles)]
        ranked = rank(reranker, shown)
        orders = [_places(request, [item.listing_id for item in one.items]) for one in ranked]
        given = [_places(request, candidate_ids([one])[request.query.query_id]) for one in shown]
        taus.append(mean_tau(orders))
        taus_shown.append([kendall_tau(one, other) for one, other in zip(given, orders, strict=True)])
        rankings.append(ranked)
    calls = len(requests) * shuffles
    tokens = [one.provenance.tokens for ranked in rankings for one in ranked]
    return PassesResult(
        tau=np.array(taus, dtype=np.float64),
        tau_shown=np.array(taus_shown).mean(axis=1),
        ndcg=np.array([_ndcg(one, requests, dataset, k) for one in zip(*rankings, strict=True)]).T,
        prompt_tokens=sum(one.prompt for one in tokens) / calls,
        completion_tokens=sum(one.completion for one in tokens) / calls,
        seconds=(engine.seconds - before) / calls,
    )


def _places(request: Request, listing_ids: Sequence[str]) -> list[int]:
    """Listings as their places in the request."""
    place = {candidate.listing.listing_id: i for i, candidate in enumerate(request.candidates)}
    return [place[listing_id] for listing_id in listing_ids]


def _ndcg(rankings: Sequence[Ranking], requests: Sequence[Request], dataset: Dataset, k: int) -> list[float]:
    """nDCG@k of one ranking a request, ``[queries]``."""
    run = {one.query_id: {item.listing_id: float(-item.rank) for item in one.items} for one in rankings}
    measured = measure(run, candidate_ids(requests), dataset.qrels, dataset.grades, k=k)
    return [measured.per_query[f"nDCG@{k}"][request.query.query_id] for request in requests]


def _summary(result: PassesResult, first: PassesResult, k: int, seed: int) -> dict[str, Any]:
    ndcg = result.ndcg.mean(axis=1)
    return {
        "tau": estimate(result.tau, seed),
        "tau_shown": estimate(result.tau_shown, seed),
        f"nDCG@{k}": estimate(ndcg, seed),
        # standard deviation over shuffles: of one query's value, and of the mean over queries
        "spread_of_a_query": float(result.ndcg.std(axis=1, ddof=1).mean()),
        "spread_of_the_mean": float(result.ndcg.mean(axis=0).std(ddof=1)),
        "against_first": dataclasses.asdict(compare(list(ndcg), list(first.ndcg.mean(axis=1)), seed=seed)),
        "prompt_tokens": result.prompt_tokens,
        "completion_tokens": result.completion_tokens,
        "tokens_to_first": (result.prompt_tokens + result.completion_tokens)
        / (first.prompt_tokens + first.completion_tokens),
        "seconds": result.seconds,
        "seconds_to_first": result.seconds / first.seconds if first.seconds else None,
        "taus": result.tau.tolist(),
        "nDCGs": result.ndcg.tolist(),
    }
