"""How fast genrank is, side by side with the bare model: ``python -m eval.bench [--model M] [--only PART]``.

Three parts, as JSON on stdout:

- ``overhead``: milliseconds that `Reranker` adds to one window of 20 candidates, with an engine double that answers at
  once. The double's tokenizer, which stands for the model's, is timed apart.
- ``throughput``: prompt tokens per second of `Reranker` on the transformers engine and of the bare model reading the
  same padded batch, in turn, and their ratio pair by pair: a machine's speed drifts, a ratio less so.
- ``evaluation``: seconds that measuring one run of 10,000 queries with 100 candidates takes, once everything is
  compiled, and memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from eval.metrics import measure
from eval.program import exit_status, say
from eval.summary import Setting, measure_system
from eval.systems import Answer
from genrank import Candidate, Request, Reranker, sample_shop
from genrank.dataset import Grade
from genrank.engines.base import ScoreRequest
from genrank.prompting import Encoded
from genrank.testing import AnyRequest, ScriptedEngine, WordTokenizer
from genrank.types import Listing

WINDOW = 20


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; see the module's text.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser("python -m eval.bench", description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--model", default="smollm2-135m", help="known name, local folder or hub name (%(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="pairs of measurements (%(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="queries in the batch (%(default)s)")
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "overhead": measure_overhead,
        "throughput": lambda: measure_throughput(arguments.model, arguments.batch, arguments.rounds),
        "evaluation": measure_evaluation,
    }
    parser.add_argument("--only", choices=list(parts), help="one part only")
    arguments = parser.parse_args(argv)

    def body() -> None:
        chosen = [arguments.only] if arguments.only else list(parts)
        print(json.dumps({name: parts[name]() for name in chosen}))

    return exit_status(body)


def windows(count: int) -> list[Request]:
    """Requests of exactly `WINDOW` candidates each, from the sample shop."""
    shop = sample_shop()
    listings = list(shop.listings.values())
    return [
        dataclasses.replace(
            shop.request(query),
            candidates=tuple(Candidate(listing) for listing in listings[i * WINDOW : (i + 1) * WINDOW]),
        )
        for i, query in enumerate(shop.queries[: min(count, len(listings) // WINDOW)])
    ]


def measure_overhead(rounds: int = 300) -> dict[str, float]:
    """Median milliseconds of one rerank call with an engine double.

    Returns:
        ``total_ms``, ``tokenizer_ms`` (the double's tokenizer) and ``own_ms``, their difference.
    """
    tokenizer = _TimedTokenizer()
    reranker = Reranker(engine=ScriptedEngine(_flat, tokenizer=tokenizer))
    requests = windows(1)
    totals, own = [], []
    for _ in range(rounds):
        tokenizer.seconds = 0.0
        started = time.perf_counter()
        reranker.rerank_batch(requests)
        totals.append(time.perf_counter() - started)
        own.append(totals[-1] - tokenizer.seconds)
    total_ms, own_ms = statistics.median(totals) * 1e3, statistics.median(own) * 1e3
    return {"total_ms": total_ms, "tokenizer_ms": total_ms - own_ms, "own_ms": own_ms}


def _flat(request: AnyRequest) -> list[list[float]]:
    assert isinstance(request, ScoreRequest)
    return [[0.0] * len(request.targets)] * len(request.reads)


class _TimedTokenizer(WordTokenizer):
    seconds = 0.0

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        started = time.perf_counter()
        encoded = super().encode(texts)
        self.seconds += time.perf_counter() - started
        return encoded


def measure_throughput(model: str, batch: int, rounds: int) -> dict[str, Any]:
    """Prompt tokens per second of `Reranker` and of the bare model over the same batch.

    Args:
        model: Known name, local folder or hub name.
        batch: Queries; all of their windows run as one batch.
        rounds: Pairs of measurements.

    Returns:
        Median tokens per second of both, the median ratio genrank / bare with its least and greatest value.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from genrank.engines.transformers import TransformersEngine
    from genrank.models import resolve

    engine = TransformersEngine(model, batch_tokens=1 << 30)
    reranker = Reranker(engine=engine)
    bare: Any = AutoModelForCausalLM.from_pretrained(resolve(model), dtype=engine.dtype)
    bare = bare.to(engine.device).eval()
    requests = windows(batch)
    recorder = _Recorder(engine)
    Reranker(engine=recorder).rerank_batch(requests)
    prompts = [request.ids for request in recorder.requests]
    width = max(map(len, prompts))
    ids = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], device=engine.device)
    tokens = sum(map(len, prompts))

    def run_bare() -> None:
        with torch.inference_mode():
            bare(input_ids=ids, use_cache=False, logits_to_keep=1).logits.sum().item()

    seconds: dict[str, list[float]] = {"genrank": [], "bare": []}
    for round_ in range(rounds + 1):  # the first one only warms up
        for name, run in (("genrank", lambda: reranker.rerank_batch(requests)), ("bare", run_bare)):
            started = time.perf_counter()
            run()
            if round_:
                seconds[name].append(time.perf_counter() - started)
        say(f"round {round_} of {rounds}")
    ratios = [bare_s / own_s for own_s, bare_s in zip(seconds["genrank"], seconds["bare"], strict=True)]
    return {
        "model": model,
        "dtype": str(engine.dtype),
        "prompts": len(prompts),
        "prompt_tokens": tokens,
        "genrank_tokens_per_s": round(tokens / statistics.median(seconds["genrank"]), 1),
        "bare_tokens_per_s": round(tokens / statistics.median(seconds["bare"]), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_min_max": [round(min(ratios), 3), round(max(ratios), 3)],
    }


def measure_evaluation(queries: int = 10_000, candidates: int = 100) -> dict[str, Any]:
    """Time the measures of one made-up run, after one small run that compiles what has to be.

    Args:
        queries: Number of queries.
        candidates: Of each.

    Returns:
        ``metrics_s``, ranx's metrics alone; ``all_s``, all that `eval.run` says of a system: those, intervals, slices,
        diversity, exposure; ``data_mib`` and ``peak_mib``, the process's memory before, and at its most.
    """
    small, answer = _made_up(10, 20)
    measure_system(answer, small)
    setting, answer = _made_up(queries, candidates)
    data = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    measure(answer.run, setting.candidates, setting.qrels, setting.grades)
    metrics = time.perf_counter() - started
    measure_system(answer, setting)
    whole = time.perf_counter() - started - metrics
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "queries": queries,
        "candidates": candidates,
        "metrics_s": round(metrics, 2),
        "all_s": round(whole, 2),
        "data_mib": data // 1024,
        "peak_mib": peak // 1024,
    }


def _made_up(queries: int, size: int) -> tuple[Setting, Answer]:
    chance = random.Random(0)
    listings = {
        f"l{i}": Listing(
            f"l{i}",
            f"thing {i % 499} model {i % 307}",
            brand=f"brand {i % 211}",
            category=("things", f"kind {i % 53}"),
            seller_id=f"seller-{i % 31}",
        )
        for i in range(200 * size)
    }
    grades = {grade: Grade(str(grade), 2.0**grade - 1) for grade in range(3)}
    ids = list(listings)
    shown = {f"q{i}": chance.sample(ids, size) for i in range(queries)}
    return (
        Setting(
            candidates=shown,
            listings=listings,
            qrels={query: {key: chance.choice((0, 0, 0, 1, 2)) for key in keys} for query, keys in shown.items()},
            grades=grades,
            slices={"history": {"without": list(shown)}},
            k=10,
            cutoffs=(5, 10, 20),
            relevant=1,
            seed=0,
            clicks=None,
        ),
        Answer(
            {
                query: {key: float(size - i) for i, key in enumerate(chance.sample(keys, size))}
                for query, keys in shown.items()
            },
            seconds=1.0,
            load_seconds=0.0,
        ),
    )


class _Recorder(ScriptedEngine):
    """Takes the prompts that would go to an engine."""

    def __init__(self, engine: Any) -> None:
        super().__init__(_flat, tokenizer=engine.tokenizer, context=engine.context)


if __name__ == "__main__":
    sys.exit(main())
