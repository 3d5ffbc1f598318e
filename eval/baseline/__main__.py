"""Train, use and ablate BERT + GBDT.

::

    python -m eval.baseline train --config eval/configs/baseline/NAME.yaml [--out FOLDER]
    python -m eval.baseline rank --config ... [--model FOLDER] [--split test] [-o RUN] [--as-first-stage]
    python -m eval.baseline ablate --config ... [--seeds 3] [--out FILE]

The folder of a configuration is ``runs/baseline/NAME``. JSON and tables go to stdout, messages and progress to stderr.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as TextTable

from eval.baseline.ablation import ablate
from eval.baseline.config import BaselineConfig
from eval.baseline.plot import plot_importance
from eval.baseline.training import has_candidates, train
from genrank.data.dataset import Dataset
from genrank.data.trec import Run, write_run
from genrank.errors import ConfigError
from genrank.experiment.config import load_config
from genrank.experiment.datasets import load_dataset
from genrank.experiment.metrics import run_of
from genrank.experiment.program import exit_status, say
from genrank.files import write_atomically
from genrank.progress import track
from genrank.rankers.gbdt import GbdtRanker

_AT_ONCE = 256


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 1 for a failed run, 2 for a usage or configuration error.
    """
    parser = argparse.ArgumentParser(prog="python -m eval.baseline", description="BERT + GBDT.")
    commands = parser.add_subparsers(required=True)
    for name, body, words in (
        ("train", _train, "train, and write the folder"),
        ("rank", _rank, "rank a split's candidates, and write a TREC run"),
        ("ablate", _ablate, "train without each group of features, and with each alone"),
    ):
        command = commands.add_parser(name, help=words, description=words.capitalize())
        command.add_argument("--config", type=Path, required=True, help="a file of eval/configs/baseline")
        command.set_defaults(body=body)
        if name == "rank":
            command.add_argument("--model", type=Path, help="the trained folder (runs/baseline/NAME)")
            command.add_argument("--split", default="test", help="whose queries (test)")
            command.add_argument("-o", "--output", type=Path, help="the run (runs/baseline/NAME.SPLIT.trec)")
            command.add_argument(
                "--as-first-stage",
                action="store_true",
                help="rank all queries, whatever --split is, and replace candidates.trec with the run",
            )
        elif name == "train":
            command.add_argument("--out", type=Path, help="folder for the ranker (runs/baseline/NAME)")
        else:
            command.add_argument(
                "--seeds", type=int, default=3, help="number of trainings averaged for each figure (3)"
            )
            command.add_argument("--out", type=Path, help="JSON file (runs/baseline/NAME.ablation.json)")
    options = parser.parse_args(arguments)
    return exit_status(lambda: options.body(options))


def _default(config: Path) -> Path:
    return Path("runs") / "baseline" / config.stem


def _train(options: argparse.Namespace) -> None:
    config = load_config(options.config, BaselineConfig)
    dataset = load_dataset(config.dataset, config.seed)
    started = time.monotonic()
    ranker = train(dataset, config)
    seconds = time.monotonic() - started
    out = options.out or _default(options.config)
    ranker.save(out)
    plot_importance(ranker.record["importance"], out / "importance.svg", f"{dataset.name}: share of the gain")
    if ranker.record["dev_from_train"]:
        say(f"{dataset.name} has no dev split: {config.dev_share:.0%} of its training queries were taken for it")
    kept = ("dev", "queries", "candidates", "trees", "queries_without_candidates", "dev_from_train")
    summary = {"folder": str(out), "dataset": dataset.name, "objective": config.objective}
    _print(summary | {key: ranker.record[key] for key in kept} | {"seconds": round(seconds, 1)})


def _rank(options: argparse.Namespace) -> None:
    config = load_config(options.config, BaselineConfig)
    if options.as_first_stage and config.dataset == "sample-shop":
        raise ConfigError("dataset: the sample shop that ships with genrank stays as it is; copy its folder")
    dataset = load_dataset(config.dataset, config.seed)
    ranker = GbdtRanker.load(options.model or _default(options.config))
    started = time.monotonic()
    queries = dataset.queries if options.as_first_stage else dataset.split(options.split)
    requests = [dataset.request(query) for query in queries if has_candidates(dataset, query)]
    parts = [requests[i : i + _AT_ONCE] for i in range(0, len(requests), _AT_ONCE)]
    run: Run = {}
    for part in track(parts, "rank") if len(parts) > 1 else parts:
        run |= run_of(part, ranker.score(part))
    if options.as_first_stage:
        path = Path(config.dataset).expanduser()
        Dataset.save_first_stage(dataclasses.replace(dataset, candidates=run, first_stage="baseline"), path)
        path = path / "candidates.trec"
    else:
        path = options.output or _default(options.config).with_name(f"{options.config.stem}.{options.split}.trec")
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as whole:
            write_run(whole, run, tag="baseline")
    seconds = round(time.monotonic() - started, 1)
    left_out = len(queries) - len(requests)
    _print({"run": str(path), "queries": len(requests), "queries_without_candidates": left_out, "seconds": seconds})


def _ablate(options: argparse.Namespace) -> None:
    config = load_config(options.config, BaselineConfig)
    if options.seeds < 1:
        raise ConfigError(f"--seeds: at least 1, got {options.seeds}")
    result = ablate(load_dataset(config.dataset, config.seed), config, seeds=options.seeds)
    text = TextTable(title=f"{result['dataset']}: nDCG@{config.k}, mean of {options.seeds} trainings")
    text.add_column("features", no_wrap=True)
    for name in ("dev", "test", "test, less all"):
        text.add_column(name, justify="right", no_wrap=True)
    whole = result["rows"][0]
    for row in result["rows"]:
        text.add_row(row["features"], f"{row['dev']:.4f}", f"{row['test']:.4f}", f"{row['test'] - whole['test']:+.4f}")
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 100)
    console.print(text)
    out = options.out or _default(options.config).with_name(f"{options.config.stem}.ablation.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    _print(result)


def _print(value: dict[str, Any]) -> None:
    print(json.dumps(value))


if __name__ == "__main__":
    sys.exit(main())
