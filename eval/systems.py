"""The systems that `eval.run` measures. Each gets the same requests and scores each candidate.

A system is loaded once and then ranks; its result is kept (`eval.cache`). Candidates with equal scores keep the order
in which they came. Heavy packages are imported by the system that needs them, when it is loaded.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from eval.cache import Entry, StoredResult
from eval.config import BertCosineSystem, Bm25System, FirstStageSystem, RandomSystem, RunConfig, System, TrecSystem
from genrank.cascade import Cascade
from genrank.data.dataset import Dataset
from genrank.data.trec import Run, read_run
from genrank.errors import ConfigError
from genrank.experiment.fingerprints import code_fingerprint, requests_fingerprint
from genrank.experiment.metrics import align, candidate_ids, run_of
from genrank.experiment.record import versions
from genrank.experiment.systems import (
    BaselineSystem,
    CascadeSystem,
    CrossEncoderSystem,
    GenrankSystem,
    dependencies,
    make_cascade,
    make_reranker,
)
from genrank.files import files_fingerprint, fingerprint
from genrank.models.store import resolve
from genrank.models.weights import model_fingerprint
from genrank.progress import track
from genrank.reranker import Reranker
from genrank.search.bm25 import Bm25
from genrank.types import Ranking, Request

Scores = Sequence[Sequence[float]]
"""``[b][n]`` by request and candidate, in the requests' order; higher is better."""


@dataclass(frozen=True)
class SystemResult:
    """How a system ranked the requests.

    Attributes:
        run: Scores by query and listing, strictly falling.
        seconds: Wall time of the ranking alone.
        load_seconds: Wall time before it: building an index, loading a model.
        rankings: Whole rankings; empty for systems that only give an order.
        probabilities: Scores from 0 to 1 by query and listing, for AUC and log loss; None if the system gives none.
        notes: What was counted on the way, such as listings that a run from elsewhere lacks.
        cached: Whether the result, times included, comes from an earlier run.
    """

    run: Run
    seconds: float
    load_seconds: float
    rankings: tuple[Ranking, ...] = ()
    probabilities: Run | None = None
    notes: Mapping[str, int] = field(default_factory=dict)
    cached: bool = False

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


def run_system(
    system: System,
    config: RunConfig,
    dataset: Dataset,
    requests: Sequence[Request],
    cache: Path | None = None,
    asked: str | None = None,
) -> SystemResult:
    """Let a system rank, or take its result from the cache.

    Args:
        system: The system.
        config: Gives the seed.
        dataset: The dataset that the requests come from.
        requests: ``[b]``, each with a query id of its own.
        cache: Folder of kept results; None keeps nothing.
        asked: `requests_fingerprint` of the requests, if the caller has it.

    Raises:
        ConfigError: When a folder or file that the system names is missing.
        GenrankError: Whatever the system raises.
    """
    if cache is None:
        return _result(_compute(system, config, dataset, requests, None), requests, cached=False)
    entry = Entry(cache, fingerprint(_dependencies(system, config, dataset, asked or requests_fingerprint(requests))))
    with entry.locked():
        stored = entry.read()
        cached = stored is not None
        if stored is None:
            stored = _compute(system, config, dataset, requests, entry)
            entry.write(stored)
    return _result(stored, requests, cached=cached)


def kept_result(
    system: System, config: RunConfig, dataset: Dataset, requests: Sequence[Request], cache: Path
) -> SystemResult | None:
    """What `run_system` would take from the cache; None if it would have to let the system rank.

    Args:
        system: The system.
        config: Gives the seed.
        dataset: The dataset that the requests come from.
        requests: ``[b]``, each with a query id of its own.
        cache: Folder of kept results.

    Raises:
        ConfigError: When a folder or file that the system names is missing.
    """
    key = fingerprint(_dependencies(system, config, dataset, requests_fingerprint(requests)))
    stored = Entry(cache, key).read()
    return None if stored is None else _result(stored, requests, cached=True)


def _dependencies(system: System, config: RunConfig, dataset: Dataset, asked: str) -> dict[str, Any]:
    """Everything that a result depends on."""
    found: dict[str, Any] = {
        "settings": system.model_dump(mode="json", exclude={"name"}),
        "seed": config.seed,
        "requests": asked,
        "code": code_fingerprint(Path(__file__)),
        "versions": versions(),
    }
    match system:
        case Bm25System(idf="dataset"):
            found["listings"] = fingerprint([listing.to_dict() for listing in dataset.listings.values()])
        case BertCosineSystem(model=model):
            found["model"] = model_fingerprint(resolve(model))
        case BaselineSystem(folder=folder) | CrossEncoderSystem(folder=folder):
            found["folder"] = files_fingerprint(_existing(folder, "folder"))
        case TrecSystem(path=path):
            found["run"] = files_fingerprint(_existing(path, "path"))
        case GenrankSystem():
            found |= dependencies(system)
        case CascadeSystem(first=first, second=second):
            found |= {"first": dependencies(first), "second": dependencies(second)}
    return found


def _existing(path: str, key: str) -> Path:
    found = Path(path).expanduser()
    if not found.exists():
        raise ConfigError(f"{key}: there is no {path}")
    return found


def _compute(
    system: System, config: RunConfig, dataset: Dataset, requests: Sequence[Request], entry: Entry | None
) -> StoredResult:
    started = time.monotonic()
    notes: Mapping[str, int] = {}
    chances: Callable[[Sequence[Request]], Scores] | None = None
    score: Callable[[Sequence[Request]], Scores]
    match system:
        case GenrankSystem():
            asked = with_histories(requests, system.history)
            return _genrank(system, asked, entry, lambda: make_reranker(system, config.seed))
        case CascadeSystem():
            asked = with_histories(requests, system.history)
            return _genrank(system, asked, entry, lambda: make_cascade(system, config.seed))
        case RandomSystem():
            score = _random(config.seed)
        case FirstStageSystem():
            score = _first_stage
        case Bm25System():
            score = _bm25(system, dataset)
        case BertCosineSystem():
            from genrank.search.dense import Encoder, cosine_scores, encoded_text

            encoder = Encoder(system.model)
            # a shop computes the listings' vectors, and loads the model, before any query comes
            encoder.encode([encoded_text(candidate.listing) for r in requests for candidate in r.candidates])
            encoder.encode([r.query.text for r in requests[:1]], queries=True)

            def score(requests: Sequence[Request]) -> Scores:
                return cosine_scores(encoder, requests)
        case BaselineSystem():
            from genrank.rankers.gbdt import GbdtRanker

            ranker = GbdtRanker.load(_existing(system.folder, "folder"))
            ranker.prepare(requests)
            score, chances = ranker.score, ranker.probabilities if ranker.objective == "binary" else None
        case CrossEncoderSystem():
            from genrank.rankers.cross_encoder import CrossEncoderRanker

            score = CrossEncoderRanker.load(_existing(system.folder, "folder")).score
        case TrecSystem():
            run, notes = align(read_run(_existing(system.path, "path")), candidate_ids(requests))
            score = _given(run)
    loaded = time.monotonic()
    scores = score(requests)
    seconds = time.monotonic() - loaded
    return StoredResult(scores, chances(requests) if chances else None, (), seconds, loaded - started, notes)


def _result(stored: StoredResult, requests: Sequence[Request], *, cached: bool) -> SystemResult:
    probabilities: Run | None = None
    if stored.probabilities is not None:
        probabilities = {
            request.query.query_id: dict(zip(_ids(request), chances, strict=True))
            for request, chances in zip(requests, stored.probabilities, strict=True)
        }
    run, rankings = run_of(requests, stored.scores), tuple(stored.rankings)
    return SystemResult(run, stored.seconds, stored.load_seconds, rankings, probabilities, dict(stored.notes), cached)


def _random(seed: int) -> Callable[[Sequence[Request]], Scores]:
    def score(requests: Sequence[Request]) -> Scores:
        scores = []
        for request in requests:
            ids = sorted(_ids(request))
            # one generator per query: the order depends neither on other queries nor on the candidates' order
            random.Random(f"{seed} {request.query.query_id}").shuffle(ids)
            place = {listing_id: float(-i) for i, listing_id in enumerate(ids)}
            scores.append([place[listing_id] for listing_id in _ids(request)])
        return scores

    return score


def _first_stage(requests: Sequence[Request]) -> Scores:
    return [[float(-i) for i in range(len(request.candidates))] for request in requests]


def _bm25(system: Bm25System, dataset: Dataset) -> Callable[[Sequence[Request]], Scores]:
    whole = None
    if system.idf == "dataset":
        whole = Bm25(dataset.listings.values(), system.fields, stem=system.stem)

    def score(requests: Sequence[Request]) -> Scores:
        scores = []
        for request in track(requests, system.name, total=len(requests)):
            listings = [candidate.listing for candidate in request.candidates]
            index = whole or Bm25(listings, system.fields, stem=system.stem)
            ranked = index.rank(request.query.text, _ids(request))
            scores.append([ranked[listing_id] for listing_id in _ids(request)])
        return scores

    return score


def _given(run: Run) -> Callable[[Sequence[Request]], Scores]:
    def score(requests: Sequence[Request]) -> Scores:
        return [[run[request.query.query_id][listing_id] for listing_id in _ids(request)] for request in requests]

    return score


def _genrank(
    system: GenrankSystem | CascadeSystem,
    requests: Sequence[Request],
    entry: Entry | None,
    load: Callable[[], Reranker | Cascade],
) -> StoredResult:
    started = time.monotonic()
    done = entry.finished() if entry else {}
    left = [request for request in requests if request.query.query_id not in done]
    loaded = started
    if left:
        ranker = load()
        loaded = time.monotonic()
    batches = [left[i : i + system.batch] for i in range(0, len(left), system.batch)]
    for batch in track(batches, system.name, total=len(batches)):
        began = time.monotonic()
        rankings = ranker.rerank_batch(batch, reasons=system.reasons)
        seconds = time.monotonic() - began
        done |= {ranking.query_id: (ranking, seconds / len(batch)) for ranking in rankings}
        if entry:
            entry.append(rankings, seconds)
    rankings = [done[request.query.query_id][0] for request in requests]
    scores, chances = [], []
    for request, ranking in zip(requests, rankings, strict=True):
        items = {item.listing_id: item for item in ranking.items}
        scores.append([float(-items[listing_id].rank) for listing_id in _ids(request)])
        chances.append([items[listing_id].score for listing_id in _ids(request)])
    seconds = sum(done[request.query.query_id][1] for request in requests)
    return StoredResult(scores, chances, rankings, seconds, loaded - started)


def with_histories(requests: Sequence[Request], whose: Literal["own", "none", "other"]) -> list[Request]:
    """The requests with their own histories, with none, or each with that of the next request (the last: the first)."""
    match whose:
        case "own":
            return list(requests)
        case "none":
            return [replace(request, history=()) for request in requests]
    histories = [request.history for request in requests]
    others = histories[1:] + histories[:1]
    return [replace(request, history=history) for request, history in zip(requests, others, strict=True)]


def _ids(request: Request) -> list[str]:
    return [candidate.listing.listing_id for candidate in request.candidates]
