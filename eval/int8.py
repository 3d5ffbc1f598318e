"""What 8-bit weights gain: times side by side, and the memory of each. The part ``int8`` of `eval.bench`."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from typing import Any

from eval.kept import percentiles
from eval.peers import pairwise, peak_mib
from eval.soak.processes import memory_mib
from genrank import Request, Reranker
from genrank.engines.transformers import TransformersEngine
from genrank.experiment.program import say
from genrank.prompting.template import Template
from genrank.types import Dtype

FORMATS: tuple[Dtype, ...] = ("auto", "int8")
REASONS = 3


def measure_int8(
    model: str, requests: Sequence[Request], rounds: int, prompt: Template | None = None
) -> dict[str, Any]:
    """Time one request in both formats, in turn: read whole, with its listings kept, and writing three reasons.

    Args:
        model: Known name, local folder or hub name.
        requests: ``[b]`` without history; ranked by ``pointwise``.
        rounds: How often each request is timed, after one that only warms up.
        prompt: The template; by default the decoding's.

    Returns:
        By format, ``cold_ms``, ``warm_ms`` and ``reasons_ms``, the latter the time that reasons add: p50 and p95; and
        ``memory_mib``: once loaded, and at most while loading and ranking one request. How many times as fast int8 is,
        pair by pair, as the median, the least and the greatest.
    """
    memory = {dtype: _in_a_process(model, dtype, requests[0], prompt) for dtype in FORMATS}
    engines = {dtype: TransformersEngine(model, dtype=dtype) for dtype in FORMATS}
    rankers = {dtype: Reranker(engine=engines[dtype], decoding="pointwise", prompt=prompt) for dtype in FORMATS}
    steps = {"cold": 0, "warm": 0, "reasons": REASONS}
    seconds: dict[Dtype, dict[str, list[float]]] = {dtype: {step: [] for step in steps} for dtype in FORMATS}
    for round_ in range(rounds + 1):
        for request in requests if round_ else requests[:1]:
            for engine in engines.values():
                engine.forget()
            for name, reasons in steps.items():
                for dtype, ranker in rankers.items():
                    started = time.perf_counter()
                    ranker.rerank_batch([request], reasons=reasons)
                    if round_:
                        seconds[dtype][name].append(time.perf_counter() - started)
        say(f"round {round_} of {rounds}")
    for found in seconds.values():
        found["reasons"] = [both - warm for both, warm in zip(found["reasons"], found["warm"], strict=True)]
    for engine in engines.values():
        engine.close()
    exact, small = (seconds[dtype] for dtype in FORMATS)
    return {
        "model": model,
        "candidates": len(requests[0].candidates),
        **{
            dtype: {f"{step}_ms": percentiles(times) for step, times in seconds[dtype].items()} | memory[dtype]
            for dtype in FORMATS
        },
        **{f"auto_over_int8_{step}": pairwise(exact[step], small[step]) for step in steps},
    }


def _in_a_process(model: str, dtype: Dtype, request: Request, prompt: Template | None) -> dict[str, Any]:
    """Memory of a process of its own that loads the model and ranks one request."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return {"memory_mib": pool.apply(_memory, (model, dtype, request, prompt))}


def _memory(model: str, dtype: Dtype, request: Request, prompt: Template | None) -> list[float | None]:
    """MiB once the model is loaded, and the most until a request is ranked; None where the system does not say."""
    engine = TransformersEngine(model, dtype=dtype)
    loaded = memory_mib(os.getpid())
    Reranker(engine=engine, decoding="pointwise", prompt=prompt).rerank_batch([request])
    return [loaded and round(loaded), peak_mib()]
