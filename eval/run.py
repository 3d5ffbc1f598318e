"""Measure several systems on the same queries and candidates.

::

    python -m eval.run --config eval/configs/NAME.yaml [--out runs/NAME]

Writes ``SYSTEM.trec`` for each system, ``SYSTEM.jsonl`` (ranking lines) for those that are genrank itself, and
``results.json``, after each system anew, so that an interrupted run keeps what was finished (``"complete": false``).
A table goes to stdout, words and progress bars to stderr.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from eval.config import RunConfig, load_config
from eval.metrics import Candidates, Floor, measure, random_floor, relevant_grade
from eval.program import exit_status, say
from eval.sets.rules import digest, shuffled
from eval.systems import answer
from genrank.dataset import Dataset, sample_shop, write_rankings, write_run
from genrank.errors import ConfigError, GenrankError, InputError
from genrank.types import Request

_PACKAGES = ("genrank", "torch", "transformers", "peft", "vllm", "ranx", "numba", "bm25s", "jieba", "numpy")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 1 for a failed run, 2 for a wrong call or configuration.
    """
    parser = argparse.ArgumentParser(prog="python -m eval.run", description="Measure systems on a dataset.")
    parser.add_argument("--config", type=Path, required=True, help="a file of eval/configs")
    parser.add_argument("--out", type=Path, help="folder for the results (runs/NAME of the configuration file)")
    options = parser.parse_args(arguments)
    return exit_status(lambda: _run(options.config, options.out or Path("runs") / options.config.stem))


def _run(path: Path, out: Path) -> None:
    config = load_config(path, RunConfig)
    dataset = load_dataset(config)
    results = run(config, dataset, out, command=f"python -m eval.run --config {path}")
    print_table(results, Console())


def load_dataset(config: RunConfig) -> Dataset:
    """The configuration's dataset; one without a first stage gets its judged listings in seeded random order.

    Raises:
        DataFormatError: When the folder is broken.
        ConfigError: When there is no such folder.
    """
    if config.dataset == "sample-shop":
        dataset = sample_shop()
    else:
        folder = Path(config.dataset).expanduser()
        if not folder.is_dir():
            raise ConfigError(f"dataset: no folder {config.dataset}; make it with python -m eval.convert")
        dataset = Dataset.load(folder)
    if not dataset.candidates:
        # the order of the qrels may well be the order of the grades
        dataset = dataclasses.replace(dataset, candidates=shuffled(dataset.qrels, config.seed), first_stage="random")
    return dataset


def make_requests(config: RunConfig, dataset: Dataset) -> list[Request]:
    """The requests that all systems get.

    Raises:
        InputError: When the split holds no query, or a query has no candidate.
    """
    queries = dataset.split(config.split)
    if config.limit is not None:
        queries = sorted(queries, key=lambda query: digest(str(config.seed), query.query.query_id))[: config.limit]
    for query in queries:
        # Dataset.request would fall back to the judged listings: an easier list than the first stage's
        if query.query.query_id not in dataset.candidates:
            raise InputError(f"query {query.query.query_id} has no line in candidates.trec", field="candidates")
    return [dataset.request(query, config.max_candidates) for query in queries]


def run(config: RunConfig, dataset: Dataset, out: Path, command: str = "") -> dict[str, Any]:
    """Measure all systems of a configuration and write the results.

    Args:
        config: What to measure.
        dataset: On what.
        out: Folder for the files, made if need be.
        command: How the run was started, for the record.

    Returns:
        What results.json holds.

    Raises:
        GenrankError: Whatever a system raises, with its name before the message where that is possible.
    """
    if config.relevant is not None and config.relevant not in dataset.grades:
        raise ConfigError(f"relevant: no grade {config.relevant}; the grades are {sorted(dataset.grades)}")
    requests = make_requests(config, dataset)
    candidates = {r.query.query_id: [candidate.listing.listing_id for candidate in r.candidates] for r in requests}
    out.mkdir(parents=True, exist_ok=True)
    results = _header(config, dataset, candidates, command)
    for system in config.systems:
        say(f"{system.name} ...")
        try:
            answered = answer(system, config, dataset, requests)
        except GenrankError:
            say(f"{system.name} failed; results of the systems before it are in {out}")
            raise
        measured = measure(
            answered.run, candidates, dataset.qrels, dataset.grades, k=config.k, relevant=config.relevant
        )
        write_run(out / f"{system.name}.trec", answered.run, tag=system.name)
        if answered.rankings:
            write_rankings(out / f"{system.name}.jsonl", answered.rankings)
        results["systems"][system.name] = {
            "metrics": measured.means,
            "counts": answered.counts(),
            "seconds": round(answered.seconds, 3),
            "load_seconds": round(answered.load_seconds, 3),
            "queries_per_second": len(requests) / max(answered.seconds, 1e-9),
            "settings": system.model_dump(mode="json"),
        }
        if answered.rankings:
            provenance = dataclasses.asdict(answered.rankings[0].provenance)
            kept = ("model", "adapter", "prompt", "prompt_hash", "engine", "decoding", "strategy", "passes")
            results["systems"][system.name]["provenance"] = {key: provenance[key] for key in kept}
        results["counts"] = {
            "queries": measured.queries,
            "candidates": sum(map(len, candidates.values())),
            "unjudged": measured.unjudged,
            "queries_without_gain": measured.without_gain,
            "queries_without_relevant": measured.without_relevant,
        }
        results["complete"] = len(results["systems"]) == len(config.systems)
        _write_json(out / "results.json", results)
    return results


def _header(config: RunConfig, dataset: Dataset, candidates: Candidates, command: str) -> dict[str, Any]:
    floor = random_floor(candidates, dataset.qrels, dataset.grades, k=config.k, relevant=config.relevant)
    gains = {str(grade): meaning.gain for grade, meaning in sorted(dataset.grades.items())}
    relevant = relevant_grade(dataset.grades) if config.relevant is None else config.relevant
    return {
        "complete": False,
        "command": command,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "hardware": hardware(),
        "versions": versions(),
        "dataset": {"name": dataset.name, "source": dataset.source, "gains": gains, "relevant": relevant},
        "settings": config.model_dump(mode="json", exclude={"systems"}),
        "random_floor": {name: dataclasses.asdict(value) for name, value in floor.items()},
        "systems": {},
    }


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


def commit() -> str:
    """The clone's commit, with ``-dirty`` where files of it were changed; empty outside of a clone."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def hardware() -> str:
    """Processor, cores that this process may use and, where torch is loaded and sees one, the GPU."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [processor, f"{cores} cores"]
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter here, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def print_table(results: Mapping[str, Any], console: Console) -> None:
    """Print results as a table, with what one must know to read them underneath.

    Args:
        results: What `run` returned.
        console: Where to; one that is no terminal gets lines as long as they need to be.
    """
    floor = {name: Floor(**value) for name, value in results["random_floor"].items()}
    metrics = list(floor)
    table = Table(title=f"{results['dataset']['name']}, {results['settings']['split']}")
    table.add_column("system", no_wrap=True)
    for name in (*metrics, "queries/s", "repaired", "fallback"):
        table.add_column(name, justify="right", no_wrap=True)
    expected = [f"{value.mean:.4f} ± {value.deviation:.4f}" for value in floor.values()]
    table.add_row("random, expected", *expected, "", "", "")
    for name, one in results["systems"].items():
        counts = one["counts"]
        outcomes = [str(counts[key]) if counts else "" for key in ("repaired", "fallback")]
        values = [f"{one['metrics'][metric]:.4f}" for metric in metrics]
        table.add_row(name, *values, f"{one['queries_per_second']:.3g}", *outcomes)
    if not console.is_terminal:
        console.width = max(console.width, 160)
    console.print(table)
    counts, settings, dataset = results["counts"], results["settings"], results["dataset"]
    gains = ", ".join(f"{grade}: {gain:.4g}" for grade, gain in dataset["gains"].items())
    console.print(
        f"{counts['queries']} queries, {counts['candidates']} candidates (at most {settings['max_candidates']} a "
        f"query), {counts['unjudged']} of them unjudged; seed {settings['seed']}\n"
        f"gain by grade {gains}; ideal over the candidates; MRR: relevant from grade {dataset['relevant']}; "
        f"± is the standard deviation from one random run to the next",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(main())
