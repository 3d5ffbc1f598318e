"""The systems that `eval.run` measures. Each gets the same requests and answers with one run.

Only `_genrank` needs a language model's packages, and imports them when it is called.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.bm25 import Bm25
from eval.config import Bm25System, FirstStageSystem, GenrankSystem, RandomSystem, RunConfig
from eval.program import track
from genrank.dataset import Dataset, Run
from genrank.types import Ranking, Request

Ranker = Callable[[Sequence[Request]], Run]


@dataclass(frozen=True)
class Answer:
    """What a system made of the requests.

    Attributes:
        run: Scores by query and listing.
        seconds: Wall time of the ranking alone.
        load_seconds: Wall time before it: building an index, loading a model.
        rankings: Full answers; empty for systems that give an order only.
    """

    run: Run
    seconds: float
    load_seconds: float
    rankings: tuple[Ranking, ...] = field(default=())

    def counts(self) -> dict[str, Any]:
        """Outcomes, repairs, cut tokens and token counts over all rankings; empty without rankings."""
        if not self.rankings:
            return {}
        provenances = [ranking.provenance for ranking in self.rankings]
        outcomes = Counter(provenance.outcome for provenance in provenances)
        cuts: Counter[str] = Counter()
        for provenance in provenances:
            cuts.update(provenance.cuts)
        return {
            "model": outcomes["model"],
            "repaired": outcomes["repaired"],
            "fallback": outcomes["fallback"],
            "repairs": sum(len(provenance.repairs) for provenance in provenances),
            "whys": dict(Counter(provenance.why for provenance in provenances if provenance.why)),
            "cuts": dict(cuts),
            "windows": sum(provenance.windows for provenance in provenances),
            "prompt_tokens": sum(provenance.tokens.prompt for provenance in provenances),
            "cached_tokens": sum(provenance.tokens.cached for provenance in provenances),
            "completion_tokens": sum(provenance.tokens.completion for provenance in provenances),
        }


def answer(
    system: RandomSystem | FirstStageSystem | Bm25System | GenrankSystem,
    config: RunConfig,
    dataset: Dataset,
    requests: Sequence[Request],
) -> Answer:
    """Build a system and let it rank.

    Args:
        system: Which.
        config: Gives the seed.
        dataset: Where the requests come from.
        requests: ``[b]``, each with a query id of its own.

    Raises:
        GenrankError: Whatever the system raises.
    """
    started = time.monotonic()
    if isinstance(system, GenrankSystem):
        return _genrank(system, config, requests)
    rank: Ranker
    match system:
        case RandomSystem():
            rank = _random(config.seed)
        case FirstStageSystem():
            rank = _first_stage
        case Bm25System():
            rank = _bm25(system, dataset)
    loaded = time.monotonic()
    run = rank(requests)
    return Answer(run, time.monotonic() - loaded, loaded - started)


def _random(seed: int) -> Ranker:
    def rank(requests: Sequence[Request]) -> Run:
        run: Run = {}
        for request in requests:
            ids = sorted(_ids(request))
            # one generator a query: the order depends on no other query, nor on how the candidates came
            random.Random(f"{seed} {request.query.query_id}").shuffle(ids)
            run[request.query.query_id] = _falling(ids)
        return run

    return rank


def _first_stage(requests: Sequence[Request]) -> Run:
    return {request.query.query_id: _falling(_ids(request)) for request in requests}


def _bm25(system: Bm25System, dataset: Dataset) -> Ranker:
    whole = None
    if system.idf == "dataset":
        whole = Bm25(dataset.listings.values(), system.fields, stem=system.stem)

    def rank(requests: Sequence[Request]) -> Run:
        run: Run = {}
        for request in track(requests, system.name, total=len(requests)):
            listings = [candidate.listing for candidate in request.candidates]
            index = whole or Bm25(listings, system.fields, stem=system.stem)
            run[request.query.query_id] = index.rank(request.query.text, _ids(request))
        return run

    return rank


def _genrank(system: GenrankSystem, config: RunConfig, requests: Sequence[Request]) -> Answer:
    started = time.monotonic()
    from genrank.engines.transformers import TransformersEngine
    from genrank.reranker import Reranker

    names = ("prompt", "decoding", "strategy", "window", "stride", "passes", "max_prompt_tokens")
    options = {name: value for name in names if (value := getattr(system, name)) is not None}
    engine = TransformersEngine(system.model, adapter=system.adapter, dtype=system.dtype)
    reranker = Reranker(engine=engine, seed=config.seed, **options)
    loaded = time.monotonic()
    rankings: list[Ranking] = []
    batches = [requests[i : i + system.batch] for i in range(0, len(requests), system.batch)]
    for batch in track(batches, system.name, total=len(batches)):
        rankings += reranker.rerank_batch(batch)
    seconds = time.monotonic() - loaded
    run: Run = {}
    for ranking in rankings:
        run |= ranking.to_run()
    return Answer(run, seconds, loaded - started, tuple(rankings))


def _ids(request: Request) -> list[str]:
    return [candidate.listing.listing_id for candidate in request.candidates]


def _falling(ids: Sequence[str]) -> dict[str, float]:
    return {listing_id: float(len(ids) - i) for i, listing_id in enumerate(ids)}
