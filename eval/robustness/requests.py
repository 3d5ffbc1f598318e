"""The requests of both measurements: which listings are shown, with which fields, in which order."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path

from eval.config import RunConfig
from eval.robustness.config import InjectionSettings, OrderSettings, RobustnessConfig
from eval.robustness.remember import Remembering
from eval.run import make_requests
from genrank.data.dataset import Dataset
from genrank.errors import EngineError
from genrank.experiment.fingerprints import code_fingerprint
from genrank.experiment.record import versions
from genrank.experiment.systems import GenrankSystem, make_engine, weights_fingerprints
from genrank.files import fingerprint
from genrank.reranker import Reranker
from genrank.types import Candidate, Listing, Ranking, Request


def requests_of(config: RobustnessConfig, part: InjectionSettings | OrderSettings, dataset: Dataset) -> list[Request]:
    """The requests of one part, each listing with the configured fields only.

    Raises:
        InputError: When the split holds no query, or a query has no candidate.
    """
    plan = RunConfig(
        dataset=config.dataset,
        split=config.split,
        max_candidates=config.max_candidates,
        limit=part.limit,
        seed=config.seed,
        systems=part.systems,
    )
    requests = make_requests(plan, dataset)
    if config.fields is None:
        return requests
    return [
        dataclasses.replace(
            request, candidates=tuple(_with_fields(candidate, config.fields) for candidate in request.candidates)
        )
        for request in requests
    ]


def _with_fields(candidate: Candidate, fields: Sequence[str]) -> Candidate:
    shown = {field: getattr(candidate.listing, field) for field in fields}
    return dataclasses.replace(candidate, listing=Listing(candidate.listing.listing_id, **shown))


def shuffled(request: Request, seed: int, number: int) -> Request:
    """The request with its candidates in the random order of this number."""
    candidates = list(request.candidates)
    random.Random(f"{seed} {request.query.query_id} {number}").shuffle(candidates)
    return dataclasses.replace(request, candidates=tuple(candidates))


def engine_of(system: GenrankSystem, cache: Path | None) -> Remembering:
    """The engine of a system; its scores are kept in `cache`.

    Raises:
        GenrankError: When the model cannot be fetched or read, or the engine's packages are missing.
    """
    if cache is None:
        return Remembering(make_engine(system))
    settings = system.model_dump(mode="json", exclude={"name"})
    depends = [settings, code_fingerprint(), versions(), weights_fingerprints(system)]
    return Remembering(make_engine(system), cache / f"robustness-{fingerprint(depends)[:32]}.jsonl")


def rank(reranker: Reranker, requests: Sequence[Request]) -> list[Ranking]:
    """Rank, and accept only orders that are the model's.

    Raises:
        EngineError: When a ranking is a fallback.
    """
    rankings = reranker.rerank_batch(requests)
    for ranking in rankings:
        if ranking.provenance.outcome == "fallback":
            raise EngineError(f"query {ranking.query_id}: {ranking.provenance.why}")
    return rankings
