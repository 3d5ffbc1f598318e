"""How much the order of the answer hangs on the order in which the candidates were shown.

The candidates of each query are ranked in some random orders. Kendall's tau between each two of the answers is 1 for a
system that only reads what the listings say. Several passes (permutation self-consistency, arXiv 2310.07712) raise it,
at their price.
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
class Answers:
    """What some passes gave.

    Attributes:
        tau: ``[queries]`` mean Kendall's tau between the answers of each two shuffles.
        tau_shown: ``[queries]`` mean Kendall's tau between an answer and the order shown; 0 is no bias.
        ndcg: ``[queries, shuffles]`` nDCG.
        prompt_tokens: Of one call, mean.
        completion_tokens: Of one call, mean.
        seconds: The engine's for one call, mean.
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
        rerankers: The system by its number of passes; costs and gains are told against the first.
        engine: Theirs.
        shuffles: Random orders of each query's candidates.
        k: Depth of nDCG.
        seed: Of the shuffles and the statistics.
        words: For the progress bar.

    Returns:
        What results.json holds of the system: one entry by number of passes.

    Raises:
        GenrankError: Whatever the system raises.
    """
    found = {}
    for passes, reranker in rerankers.items():
        found[passes] = ask(reranker, requests, dataset, engine, shuffles, k, seed, f"{words}, passes {passes}")
    first = next(iter(found.values()))
    return {"passes": {str(passes): _summary(answers, first, k, seed) for passes, answers in found.items()}}


def ask(
    reranker: Reranker,
    requests: Sequence[Request],
    dataset: Dataset,
    engine: Remembering,
    shuffles: int,
    k: int,
    seed: int,
    words: str,
) -> Answers:
    """Rank the shuffled candidates of each query."""
    before = engine.seconds
    taus, taus_shown = [], []
    rankings: list[list[Ranking]] = []
    for request in track(requests, words, total=len(requests)):
        shown = [shuffled(request, seed, number) for number in range(shuffles)]
        answers = rank(reranker, shown)
        orders = [_places(request, [item.listing_id for item in answer.items]) for answer in answers]
        given = [_places(request, candidate_ids([one])[request.query.query_id]) for one in shown]
        taus.append(mean_tau(orders))
        taus_shown.append([kendall_tau(one, other) for one, other in zip(given, orders, strict=True)])
        rankings.append(answers)
    calls = len(requests) * shuffles
    tokens = [answer.provenance.tokens for answers in rankings for answer in answers]
    return Answers(
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


def _summary(answers: Answers, first: Answers, k: int, seed: int) -> dict[str, Any]:
    ndcg = answers.ndcg.mean(axis=1)
    return {
        "tau": estimate(answers.tau, seed),
        "tau_shown": estimate(answers.tau_shown, seed),
        f"nDCG@{k}": estimate(ndcg, seed),
        # of one query's value from one shuffle to the next, and of the mean over queries
        "spread_of_a_query": float(answers.ndcg.std(axis=1, ddof=1).mean()),
        "spread_of_the_mean": float(answers.ndcg.mean(axis=0).std(ddof=1)),
        "against_first": dataclasses.asdict(compare(list(ndcg), list(first.ndcg.mean(axis=1)), seed=seed)),
        "prompt_tokens": answers.prompt_tokens,
        "completion_tokens": answers.completion_tokens,
        "tokens_to_first": (answers.prompt_tokens + answers.completion_tokens)
        / (first.prompt_tokens + first.completion_tokens),
        "seconds": answers.seconds,
        "seconds_to_first": answers.seconds / first.seconds if first.seconds else None,
        "taus": answers.tau.tolist(),
        "nDCGs": answers.ndcg.tolist(),
    }
