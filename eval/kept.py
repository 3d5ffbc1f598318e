"""What kept listings gain and cost: times side by side, memory, int8, a restart, and a stream of queries.

The parts ``kept`` and ``stream`` of `eval.bench`.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from eval.peers import pairwise
from genrank import Listing, Request, Reranker
from genrank.decoding.judgements import log_odds
from genrank.engines.transformers import TransformersEngine
from genrank.errors import InputError
from genrank.experiment.program import say
from genrank.permutation import kendall_tau
from genrank.types import Candidate, Query

PROMPT = "pointwise-lean"


def measure_kept(model: str, requests: Sequence[Request], rounds: int, prompt: str = PROMPT) -> dict[str, Any]:
    """Time one request, in turn: read whole, with its listings kept, as ``inline`` in two orders, by a cross-encoder.

    Args:
        model: Known name, local folder or hub name.
        requests: ``[b]`` without history.
        rounds: How often each request is timed, after one that only warms up.
        prompt: The template, which begins with the listing.

    Returns:
        ``cold_ms``, ``warm_ms``, ``inline_ms`` and ``cross_encoder_ms``: p50 and p95; ratios pair by pair, as the
        median, the least and the greatest; tokens of a prompt; and what `measure_memory` finds.
    """
    with TransformersEngine(model) as engine:
        pointwise = Reranker(engine=engine, decoding="pointwise", prompt=prompt)
        inline = Reranker(engine=engine, decoding="inline", passes=2)
        contenders: dict[str, Callable[[Request], Any]] = {
            "cold": lambda request: pointwise.rerank_batch([request]),
            "warm": lambda request: pointwise.rerank_batch([request]),
            "inline": lambda request: inline.rerank_batch([request]),
            "cross_encoder": _cross_encoder(pointwise),
        }
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for round_ in range(rounds + 1):
            for request in requests if round_ else requests[:1]:
                engine.forget()
                for name, contender in contenders.items():
                    started = time.perf_counter()
                    contender(request)
                    if round_:
                        seconds[name].append(time.perf_counter() - started)
            say(f"round {round_} of {rounds}")
        (ranking,) = pointwise.rerank_batch(requests[:1])
        tokens = ranking.provenance.tokens
        result: dict[str, Any] = {"model": model, "prompt": prompt, "candidates": len(requests[0].candidates)}
        result |= {f"{name}_ms": percentiles(found) for name, found in seconds.items()}
        result |= {
            "inline_over_cold": pairwise(seconds["inline"], seconds["cold"]),
            "inline_over_warm": pairwise(seconds["inline"], seconds["warm"]),
            "cross_encoder_over_warm": pairwise(seconds["cross_encoder"], seconds["warm"]),
            "prompt_tokens": tokens.prompt / len(ranking.items),
            "read_tokens": (tokens.prompt - tokens.cached) / len(ranking.items),
        }
        listings = [candidate.listing for request in requests for candidate in request.candidates]
        return result | measure_memory(model, engine, pointwise, listings, requests)


def measure_memory(
    model: str, engine: TransformersEngine, reranker: Reranker, listings: Sequence[Listing], requests: Sequence[Request]
) -> dict[str, Any]:
    """Bytes a listing, listings read a minute, the change that int8 makes, and a restart from a snapshot.

    Args:
        model: The engine's.
        engine: Keeps listings as they are.
        reranker: Runs on it.
        listings: Distinct ones.
        requests: Ranked with both kinds of kept listings.
    """
    engine.forget()
    warmed = reranker.warm(listings)
    exact = [reranker.rerank_batch([request])[0] for request in requests]
    with TransformersEngine(model, kept_dtype="int8") as small:
        other = Reranker(engine=small, decoding="pointwise", prompt=reranker._renderer.template)
        packed = other.warm(listings)
        changed = [other.rerank_batch([request])[0] for request in requests]
    taus, changes = [], []
    for one, two in zip(exact, changed, strict=True):
        scores = [{item.listing_id: log_odds(item.score) for item in ranking} for ranking in (one, two)]
        changes += [abs(scores[0][key] - scores[1][key]) for key in scores[0]]
        places = {item.listing_id: place for place, item in enumerate(one)}
        taus.append(kendall_tau(range(len(places)), [places[item.listing_id] for item in two]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "snapshot"
        written = reranker.warm(listings, snapshot=path)
        engine.forget()
        started = time.perf_counter()
        reranker.warm(listings, snapshot=path)
        opened = time.perf_counter() - started
        times = []
        for request in requests:
            started = time.perf_counter()
            reranker.rerank_batch([request])
            times.append(time.perf_counter() - started)
        engine.forget()
    return {
        "bytes_a_listing": round(warmed.held_bytes / len(listings)),
        "int8_bytes_a_listing": round(packed.held_bytes / len(listings)),
        "listings_a_minute": round(warmed.new / warmed.seconds * 60),
        "int8_tau": [round(statistics.mean(taus), 4), round(min(taus), 4)],
        "int8_log_odds": [round(statistics.mean(changes), 4), round(max(changes), 4)],
        "snapshot_mib": round(written.snapshot_bytes / 2**20, 1),
        "snapshot_written_s": round(written.seconds, 2),
        "restart_s": round(opened, 2),
        "restarted_ms": percentiles(times),
    }


def measure_stream(
    model: str,
    listings: Sequence[Listing],
    queries: Sequence[Query],
    search: Callable[[str, int], Iterable[str]],
    *,
    budgets: Sequence[int],
    length: int,
    candidates: int = 20,
    exponent: float = 1.0,
    seed: int = 0,
) -> dict[str, Any]:
    """A stream of queries whose popularity follows Zipf's law, by the memory for kept listings.

    Args:
        model: Known name, local folder or hub name.
        listings: The catalogue.
        queries: The distinct queries, the most popular first.
        search: Gives the ids of a query's best listings, and how many are wanted.
        budgets: Bytes for kept listings.
        length: How many queries are asked, for each budget the same.
        candidates: Of each query.
        exponent: The query of rank r comes up in proportion to ``r ** -exponent``.
        seed: Of the stream.

    Returns:
        For each budget the ``hit_rate`` (listings found, of all shown), that of the stream's second half, and p50 and
        p95 of the milliseconds of a query; and how many distinct listings the stream shows.

    Raises:
        InputError: When there is no query.
    """
    if not queries:
        raise InputError("has no queries; name another split", field="dataset")
    by_id = {listing.listing_id: listing for listing in listings}
    weights = [rank**-exponent for rank in range(1, len(queries) + 1)]
    asked = random.Random(seed).choices(queries, weights, k=length)
    requests = [
        Request(query, tuple(Candidate(by_id[key]) for key in search(query.text, candidates))) for query in asked
    ]
    shown = [candidate.listing.listing_id for request in requests for candidate in request.candidates]
    result: dict[str, Any] = {"model": model, "catalogue": len(listings), "queries": length}
    result |= {"distinct_queries": len({query.text for query in asked}), "distinct_listings": len(set(shown))}
    rows = []
    for budget in budgets:
        with TransformersEngine(model, kept_bytes=budget) as engine:
            reranker = Reranker(engine=engine, decoding="pointwise", prompt=PROMPT)
            found, seconds = [], []
            for request in requests:
                started = time.perf_counter()
                (ranking,) = reranker.rerank_batch([request])
                seconds.append(time.perf_counter() - started)
                found.append(ranking.provenance.kept / max(1, len(ranking.items)))
            rows.append(
                {
                    "budget_mib": budget >> 20,
                    "hit_rate": round(statistics.mean(found), 3),
                    "later_hit_rate": round(statistics.mean(found[length // 2 :]), 3),
                    "ms": percentiles(seconds),
                    "later_ms": percentiles(seconds[length // 2 :]),
                }
            )
        say(f"budget of {budget >> 20} MiB")
    return result | {"budgets": rows}


def _cross_encoder(reranker: Reranker) -> Callable[[Request], Any]:
    """MiniLM's body in float32, which reads each candidate's text beside the query; its head would cost nothing."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from genrank.models.store import resolve

    folder = resolve("bert-minilm")
    model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    def run(request: Request) -> None:
        heads = reranker._renderer.heads([one.listing for one in request.candidates], max_tokens=512)
        texts = [reranker.engine.tokenizer.decode(head.ids[head.lead : head.head]) for head in heads]
        with torch.inference_mode():
            inputs = tokenizer([request.query.text] * len(texts), texts, padding=True, return_tensors="pt")
            model(**inputs).last_hidden_state[:, 0].tolist()

    return run


def percentiles(seconds: Sequence[float]) -> list[float]:
    """p50 and p95, in milliseconds."""
    ordered = sorted(seconds)
    return [round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3, 1) for share in (0.5, 0.95)]
