"""What ``genrank batch`` costs beside the engine, what it keeps through kills, and how it scales with Ray."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from eval.peers import pairwise
from genrank.batch.dialects import Requests
from genrank.batch.job import Job
from genrank.batch.pace import Pace
from genrank.batch.settings import Maker, Settings
from genrank.batch.sources import open_source
from genrank.batch.workers import LocalWorkers, Ranker, Workers
from genrank.data.jsonl import read_jsonl, request_fields, write_jsonl
from genrank.experiment.program import say
from genrank.types import Query, Request

_IDENTITY = {"made by": "eval.batch"}


def repeated(requests: Sequence[Request], count: int) -> list[Request]:
    """Requests again and again, each time with an id of its own."""
    return [
        dataclasses.replace(one, query=Query(one.query.text, f"q{i}"))
        for i, one in enumerate(itertools.islice(itertools.cycle(requests), count))
    ]


def measure_batch(
    maker: Maker, requests: Sequence[Request], *, batch: int, rounds: int, kills: int = 0, workers: int = 0
) -> dict[str, Any]:
    """Rows per second of a job and of `Reranker.rerank_batch` over the same requests, in turn, in one process.

    A job reads its rows from JSON Lines, and writes each answer to the disk; the time to load the model is left out.

    Args:
        maker: What ranks.
        requests: ``[n]`` with distinct ids.
        batch: Queries that are ranked at once, by both.
        rounds: Pairs of measurements.
        kills: How often a process of ``genrank batch`` is killed on the way through the same rows; 0 starts none. Only
            with `Settings`.
        workers: Workers of a local Ray cluster, a core each, that are compared with one; 0 starts none.

    Returns:
        Median rows per second of both, and ``ratio``, job / engine: the median pair, the least and the greatest; with
        `kills`, what the killed job left (``killed``); with `workers`, the rates of both pools (``ray``).
    """
    found: dict[str, Any] = {"queries": len(requests), "batch": batch}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "in.jsonl"
        write_jsonl(source, map(request_fields, requests))
        rates: dict[str, list[float]] = {"engine": [], "job": []}
        with maker.make() as ranker:
            ranker.rerank_batch(requests[:batch])  # warms up
            for round_ in range(rounds):
                rates["engine"].append(len(requests) / _engine_seconds(ranker, requests, batch))
                pace = _run(LocalWorkers(ranker, Requests()), source, folder / f"out-{round_}.jsonl", batch)
                rates["job"].append(pace.ranked / pace.seconds)
                say(f"round {round_ + 1} of {rounds}")
        found |= {f"{one}_rows_per_s": round(statistics.median(rate), 3) for one, rate in rates.items()}
        found["ratio"] = pairwise(rates["job"], rates["engine"])
        if kills and isinstance(maker, Settings):
            found["killed"] = killed(maker, source, folder / "killed.jsonl", batch=batch, kills=kills)
        if workers:
            found["ray"] = _measure_ray(maker, source, folder, batch=batch, workers=workers)
    return found


def killed(settings: Settings, source: Path, out: Path, *, batch: int, kills: int) -> dict[str, Any]:
    """Kill ``genrank batch`` with SIGKILL on its way, each time after a further share of the rows, and let it end.

    Returns:
        ``rows`` of the input, ``answers`` in the output, how many of them are ``distinct``, ``kills``, and ``seconds``
        of all processes together, each of which loads the model.
    """
    options = [("--model", settings.model), ("--adapter", settings.adapter), ("--prompt", settings.prompt)]
    given = [word for option, value in options if value is not None for word in (option, value)]
    command = [sys.executable, "-m", "genrank", "batch", str(source), str(out), "--batch", str(batch), *given]
    rows = open_source(str(source)).count() or 0
    started = time.perf_counter()
    done = 0
    for kill in range(1, kills + 1):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while _lines(out) < kill * rows // (kills + 1) and process.poll() is None:
            time.sleep(0.05)
        process.kill()
        done += process.wait() < 0
        say(f"killed after {_lines(out)} of {rows} rows")
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    seconds = time.perf_counter() - started
    ids = Counter(fields["query_id"] for _, fields in read_jsonl(out))
    return {
        "rows": rows,
        "answers": ids.total(),
        "distinct": len(ids),
        "kills": done,
        "seconds": round(seconds, 1),
    }


def _measure_ray(maker: Maker, source: Path, folder: Path, *, batch: int, workers: int) -> dict[str, Any]:
    """Rows per second of one worker and of several, a core each; the time until the first answers is left out."""
    from genrank.batch.cluster import RayWorkers

    rates = {}
    for count in (1, workers):
        with RayWorkers(maker, str(source), Requests, workers=count, cpus=1) as pool:
            seen: list[tuple[float, int]] = []

            def note(pace: Pace, seen: list[tuple[float, int]] = seen) -> None:
                seen.append((time.perf_counter(), pace.ranked))

            _run(pool, source, folder / f"ray-{count}.jsonl", batch, note)
        (since, before), (now, ranked) = seen[0], seen[-1]
        rates[count] = (ranked - before) / (now - since)
        say(f"Ray with {count}: {rates[count]:.3f} rows/s")
    return {
        "workers": workers,
        "one_rows_per_s": round(rates[1], 3),
        "all_rows_per_s": round(rates[workers], 3),
        "of_so_many_ones": round(rates[workers] / (workers * rates[1]), 3),
    }


def _run(workers: Workers, source: Path, out: Path, batch: int, report: Any = lambda _: None) -> Pace:
    with Job(open_source(str(source)), out, Requests(), _IDENTITY) as job:
        return job.run(workers, batch=batch, report=report)


def _engine_seconds(ranker: Ranker, requests: Iterable[Request], batch: int) -> float:
    started = time.perf_counter()
    rest = iter(requests)
    while chunk := list(itertools.islice(rest, batch)):
        ranker.rerank_batch(chunk)
    return time.perf_counter() - started


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
