"""Measure the shop's whole path: how good and how fast each stage of `genrank.search.pipeline` is.

::

    python -m eval.search [--dataset FOLDER] [--split SPLIT ...] [--dense] [--model M] [--adapter A] [--candidates N]
                          [--variety V] [--out FILE]

The listings of a dataset are indexed, and its queries searched: by words, by vectors and by both (``--dense``), with
what the query means, ranked, ranked with the shopper's history, blended with the scores of what was found, and varied.
Each stage starts from what the one before it found; the model's weight in a query's blend is the one that suits the
other queries (`eval.blend.fit_weight`). nDCG@10 has the dataset's gains, and its ideal is over all judged listings:
what is not found counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from eval.blend import WEIGHTS, fit_weight
from eval.diversity import diversity
from eval.peers import percentiles_ms
from genrank import Candidate, Cascade, Reranker
from genrank.blending import blend_ranking, standardised
from genrank.data.dataset import Dataset, DatasetQuery
from genrank.errors import InputError
from genrank.experiment.datasets import load_dataset
from genrank.experiment.metrics import relevant_grade
from genrank.experiment.program import exit_status, say
from genrank.files import write_atomically
from genrank.models.registry import DEFAULT_MODEL
from genrank.search.diversity import diversify
from genrank.search.filters import Filters
from genrank.search.index import Index, Mode
from genrank.search.pipeline import categories_of, match
from genrank.search.rules import dcg
from genrank.search.shoppers import profile
from genrank.search.understanding import Understanding, Vocabulary
from genrank.types import Query, Ranking

T = TypeVar("T")
DEPTH = 10
_UNFITTED = 0.5  # weight of the model, where no other query says anything


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 1 for a failed run, 2 for a usage or configuration error.
    """
    parser = argparse.ArgumentParser(prog="python -m eval.search", description="Measure the stages of a search.")
    parser.add_argument("--dataset", default="sample-shop", help="a dataset folder (%(default)s)")
    parser.add_argument("--split", action="append", help="may be repeated (all of them)")
    parser.add_argument("--dense", action="store_true", help="search by meaning too")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="%(default)s")
    parser.add_argument("--adapter", help="folder or hub name of a LoRA adapter")
    parser.add_argument("--candidates", type=int, default=20, help="found and ranked (%(default)s)")
    parser.add_argument("--variety", type=float, default=0.3, help="of the last stage (%(default)s)")
    parser.add_argument("--out", type=Path, help="a JSON file of the figures")
    options = parser.parse_args(arguments)
    return exit_status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    dataset = load_dataset(options.dataset)
    queries = [query for query in dataset.queries if not options.split or query.split in options.split]
    if not queries:
        raise InputError(f"{dataset.name} has no query in {', '.join(options.split)}", field="split")
    encoder = None
    if options.dense:
        from genrank.search.dense import Encoder

        encoder = Encoder("bert-minilm")
    with tempfile.TemporaryDirectory() as folder, Index.create(folder, encoder=encoder) as index:
        index.add(dataset.listings.values())
        reranker = Reranker(options.model, adapter=options.adapter)
        understanding = Understanding(reranker.engine, Vocabulary.of(index, search=categories_of(index)))
        stages = Stages(
            index, reranker, understanding, options.candidates, options.variety, with_vectors=encoder is not None
        )
        for place, query in enumerate(queries, start=1):
            stages.search(query)
            if place % 10 == 0:
                say(f"{place} of {len(queries)} queries")
        results = stages.results(dataset)
    print(json.dumps(results, indent=1))
    if options.out:
        with write_atomically(options.out) as file:
            file.write_text(json.dumps(results, indent=1))


class Stages:
    """Runs each stage on queries, and remembers orders and times.

    Args:
        index: The catalogue's.
        reranker: Ranks.
        understanding: Reads queries.
        candidates: How many are found and ranked.
        variety: The knob of the last stage.
        with_vectors: Whether the index has vectors and their encoder.
    """

    def __init__(
        self,
        index: Index,
        reranker: Reranker | Cascade,
        understanding: Understanding,
        candidates: int,
        variety: float,
        *,
        with_vectors: bool = False,
    ) -> None:
        self._index, self._reranker, self._understanding = index, reranker, understanding
        self._candidates, self._variety, self._with_vectors = candidates, variety, with_vectors
        self._orders: dict[str, dict[str, list[str]]] = defaultdict(dict)
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self._ranked: dict[str, tuple[Ranking, Sequence[Candidate]]] = {}

    def search(self, query: DatasetQuery) -> None:
        """Run all stages on a query."""
        asked, query_id = query.query, query.query.query_id

        def found(stage: str, ids: Sequence[str]) -> None:
            self._orders[stage][query_id] = list(ids)

        modes: dict[str, Mode] = {"words": "text", "vectors": "dense", "fused": "fused"}
        for stage, mode in modes.items():
            if self._with_vectors or mode == "text":
                hits = self._timed(stage, partial(self._index.search, asked, k=self._candidates, mode=mode))
                found(stage, [hit.listing.listing_id for hit in hits])
        intent = self._timed("understood", lambda: self._understanding.understand(asked))
        corrected = Query(intent.corrected, query_id)
        hits, _ = self._timed("with intent", lambda: match(self._index, corrected, intent, Filters(), self._candidates))
        found("with intent", [hit.listing.listing_id for hit in hits])
        if not hits:
            for stage in ("ranked", "personalised", "blended", "varied"):
                found(stage, [])
            return
        ranked = self._timed("ranked", lambda: self._reranker.rerank(corrected, hits))
        found("ranked", _ids(ranked))
        if query.history:
            listings = [hit.listing for hit in hits]
            ranked = self._timed(
                "personalised",
                lambda: self._reranker.rerank(corrected, hits, profile(query.history, corrected, listings)),
            )
        found("personalised", _ids(ranked))
        self._ranked[query_id] = ranked, hits

    def _timed(self, stage: str, work: Callable[[], T]) -> T:
        started = time.perf_counter()
        result = work()
        self._seconds[stage].append(time.perf_counter() - started)
        return result

    def _blend(self, dataset: Dataset) -> list[float]:
        """Blend each query's ranking, and vary it; returns the model's weights, which no query had a part in itself."""
        worth = {
            weight: {
                query_id: ndcg(dataset, query_id, _ids(blend(*ranked, weight)))
                for query_id, ranked in self._ranked.items()
            }
            for weight in WEIGHTS
        }
        weights = []
        for query_id, ranked in self._ranked.items():
            others = {weight: [one for key, one in by.items() if key != query_id] for weight, by in worth.items()}
            weights.append(fit_weight(others) if len(self._ranked) > 1 else _UNFITTED)
            mixed = self._timed("blended", partial(blend, *ranked, weights[-1]))
            self._orders["blended"][query_id] = _ids(mixed)
            varied = self._timed("varied", partial(diversify, mixed, variety=self._variety, top_k=DEPTH))
            self._orders["varied"][query_id] = _ids(varied)
        return weights

    def results(self, dataset: Dataset) -> dict[str, Any]:
        """By stage, ``nDCG@10``, ``alpha-nDCG@10`` and the milliseconds of a query: p50 and p95.

        Of ``blended`` also the model's ``weight``: the median over the queries, the least and the greatest.
        """
        weights = self._blend(dataset)
        relevant = relevant_grade(dataset.grades)
        figures: dict[str, Any] = {}
        for stage, orders in self._orders.items():
            run = {
                query_id: {listing_id: -float(place) for place, listing_id in enumerate(order)}
                for query_id, order in orders.items()
                if order
            }
            varied = diversity(run, dataset.listings, dataset.qrels, relevant, k=DEPTH) if run else {}
            figures[stage] = {
                f"nDCG@{DEPTH}": statistics.mean(ndcg(dataset, query, order) for query, order in orders.items()),
                f"alpha-nDCG@{DEPTH}": varied.get(f"alpha-nDCG@{DEPTH}", 0.0) * len(run) / len(orders),
                "nothing_found": len(orders) - len(run),
            }
        for stage, seconds in self._seconds.items():
            figures.setdefault(stage, {})["ms"] = percentiles_ms(seconds)
        if weights:
            figures["blended"]["weight"] = [statistics.median(weights), min(weights), max(weights)]
        return {"dataset": dataset.name, "queries": len(self._orders["words"]), "stages": figures}


def blend(ranking: Ranking, hits: Sequence[Candidate], weight: float) -> Ranking:
    """A ranking's scores blended with those of what was found; see `genrank.blending`.

    Args:
        ranking: The ranking.
        hits: The candidates that it ranks, with the scores of the stage that found them.
        weight: Weight of the ranking's scores, 0 to 1.
    """
    found = {hit.listing.listing_id: hit.score or 0.0 for hit in hits}
    return blend_ranking(ranking, standardised([found[item.listing_id] for item in ranking]), weight)


def ndcg(dataset: Dataset, query_id: str, order: Sequence[str], k: int = DEPTH) -> float:
    """nDCG@k of one query, with the ideal over all judged listings; 0 where none has a gain."""
    judged: Mapping[str, int] = dataset.qrels.get(query_id, {})
    gains = {listing_id: dataset.grades[grade].gain for listing_id, grade in judged.items()}
    ideal = dcg(sorted(gains.values(), reverse=True), k)
    return dcg([gains.get(listing_id, 0.0) for listing_id in order], k) / ideal if ideal else 0.0


def _ids(ranking: Ranking) -> list[str]:
    return [item.listing_id for item in ranking]


if __name__ == "__main__":
    raise SystemExit(main())
