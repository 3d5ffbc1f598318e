"""Measure what a hostile listing gains, and how much the ranking depends on the order shown.

::

    python -m eval.robustness --config eval/configs/robustness/NAME.yaml [--only injection|order] [--out FOLDER]
                              [--cache FOLDER | --no-cache]

Writes ``results.json`` (rewritten after each system; ``"complete": false`` until the last) and ``results.md`` into the
folder (runs/robustness-NAME), and prints the latter. The model's scores are kept, so an interrupted run continues where
it stopped. Messages and progress bars go to stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eval.cache import add_options, chosen_folder
from eval.robustness.config import RobustnessConfig
from eval.robustness.injection import cut_texts, measure_injection
from eval.robustness.order import measure_order
from eval.robustness.page import markdown
from eval.robustness.requests import engine_of, requests_of
from genrank.data.dataset import Dataset
from genrank.errors import ConfigError
from genrank.experiment.config import load_config
from genrank.experiment.datasets import load_dataset
from genrank.experiment.program import exit_status, say
from genrank.experiment.record import circumstances
from genrank.experiment.systems import make_reranker

PARTS = ("injection", "order")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 1 for a failed run, 2 for a usage or configuration error.
    """
    parser = argparse.ArgumentParser(prog="python -m eval.robustness", description="Attack a reranker, and shuffle.")
    parser.add_argument("--config", type=Path, required=True, help="a file of eval/configs/robustness")
    parser.add_argument("--only", choices=PARTS, help="measure one part only")
    parser.add_argument(
        "--out", type=Path, help="folder for the results (runs/robustness-NAME of the configuration file)"
    )
    add_options(parser)
    options = parser.parse_args(arguments)
    return exit_status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    config = load_config(options.config, RobustnessConfig)
    parts = (options.only,) if options.only else tuple(part for part in PARTS if getattr(config, part))
    if options.only and getattr(config, options.only) is None:
        raise ConfigError(f"{options.config} has no {options.only}; add it, or leave out --only")
    out = options.out or Path("runs") / f"robustness-{options.config.stem}"
    out.mkdir(parents=True, exist_ok=True)
    command = f"python -m eval.robustness --config {options.config}"
    command += f" --only {options.only}" if options.only else ""
    dataset = load_dataset(config.dataset, config.seed)
    for results in run(config, dataset, parts, cache=chosen_folder(options), command=command):
        text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)
        (out / "results.json").write_text(text + "\n", encoding="utf-8")
    page = markdown(results)
    (out / "results.md").write_text(page, encoding="utf-8")
    sys.stdout.write(page)
    say(f"written: {out / 'results.json'} and results.md")


def run(
    config: RobustnessConfig,
    dataset: Dataset,
    parts: Sequence[str] = PARTS,
    *,
    cache: Path | None = None,
    command: str = "",
) -> Iterator[dict[str, Any]]:
    """Measure.

    Args:
        config: What to measure.
        dataset: The dataset to measure on.
        parts: Some of `PARTS`; parts that the configuration does not have are skipped.
        cache: Folder of kept results; None keeps none.
        command: How the run was started, for the record.

    Yields:
        What results.json holds, after each system.

    Raises:
        InputError: When the split holds no query, or a query has no candidate.
        GenrankError: Whatever a system raises.
    """
    results: dict[str, Any] = {
        "format": 1,
        "complete": False,
        "command": command,
        **circumstances(),
        "dataset": {"name": dataset.name, "source": dataset.source, "first_stage": dataset.first_stage},
        "settings": config.model_dump(mode="json"),
    }
    todo = [
        (part, settings, system)
        for part in parts
        if (settings := getattr(config, part)) is not None
        for system in settings.systems
    ]
    for number, (part, settings, system) in enumerate(todo, start=1):
        say(f"{part}: {system.name} ...")
        requests = requests_of(config, settings, dataset)
        engine = engine_of(system, cache)
        counts = {"queries": len(requests), "candidates": sum(len(request.candidates) for request in requests)}
        if part == "injection":
            rerankers = {
                name: make_reranker(system, config.seed, engine=engine, neutralise=neutralise)
                for name, neutralise in (("defended", True), ("undefended", False))
            }
            measured = measure_injection(
                requests, dataset, rerankers, placements=settings.placements, seed=config.seed, words=system.name
            )
            measured["cut"] = cut_texts(requests, dataset, system, engine)
        else:
            by_passes = {
                passes: make_reranker(system, config.seed, engine=engine, passes=passes) for passes in settings.passes
            }
            measured = measure_order(
                requests,
                dataset,
                by_passes,
                engine,
                shuffles=settings.shuffles,
                k=config.k,
                seed=config.seed,
                words=system.name,
            )
        found = results.setdefault(part, {"systems": {}})
        found |= counts
        found["systems"][system.name] = {"settings": system.model_dump(mode="json"), **measured}
        results["complete"] = number == len(todo)
        yield results


if __name__ == "__main__":
    sys.exit(main())
