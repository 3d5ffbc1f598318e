"""One table of systems by dataset, from several results of `eval.run`.

::

    python -m eval.leaderboard runs/A runs/B .. --out FOLDER [--metric nDCG@10] [--reference SYSTEM]

RUNS are results folders (or their ``results.json``), of one dataset or of several. Runs share a column only if they
ranked the same queries and candidates and were judged alike (the fingerprint in ``results.json``); otherwise each gets
its own. A system has one row, found by its name; where two runs of one column disagree about it, each run has its own
row. Within a column, the systems are compared with the reference as by `eval.run`, corrected by Holm.

FOLDER gets ``leaderboard.html`` (one file, nothing from the network; sorting needs JavaScript, reading does not),
``leaderboard.md`` and ``leaderboard.json``; the Markdown goes to stdout too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import urllib.parse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.report.content import ALPHA, tidy
from eval.report.results import ReportedSystem, Results, read_per_query, read_results, results_folder
from eval.report.write import environment, policy, script, style
from eval.significance import compare, holm
from genrank.errors import DataFormatError, InputError
from genrank.experiment.program import exit_status, say

METRIC = "nDCG@10"


@dataclass(frozen=True)
class Run:
    """A results folder.

    Attributes:
        label: The folder's name, or its whole path where two have the same name.
        folder: The folder.
        results: Its ``results.json``.
        values: The metric by system and query.
    """

    label: str
    folder: Path
    results: Results
    values: Mapping[str, Mapping[str, float]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 1 for a broken file, 2 for a usage error.
    """
    parser = argparse.ArgumentParser(prog="python -m eval.leaderboard", description="One table over several results.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="what python -m eval.run wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for the page; created if it is missing")
    parser.add_argument("--metric", default=METRIC, help="what is shown (%(default)s)")
    parser.add_argument("--reference", help="system that the others are compared with (that of the first run)")
    options = parser.parse_args(arguments)
    return exit_status(lambda: _write(options))


def _write(options: argparse.Namespace) -> None:
    path = write_leaderboard(options.runs, options.out, metric=options.metric, reference=options.reference)
    sys.stdout.write(path.with_suffix(".md").read_text(encoding="utf-8"))
    say(f"{path}, leaderboard.md and leaderboard.json beside it")


def write_leaderboard(runs: Sequence[Path], out: Path, *, metric: str = METRIC, reference: str | None = None) -> Path:
    """Write ``leaderboard.html``, ``leaderboard.md`` and ``leaderboard.json``.

    Args:
        runs: Results folders, or their ``results.json``.
        out: Folder for the files; created if it is missing.
        metric: What is shown.
        reference: System that the others are compared with; None takes that of the first run.

    Returns:
        Path of the HTML file.

    Raises:
        InputError: When a folder holds no results or is named twice, a run lacks the metric, or no run has the
            reference.
        DataFormatError: When a file is missing or broken.
        MissingExtraError: When jinja2, scipy or ranx is not installed.
    """
    content = leaderboard([*_read(runs, metric)], out, metric, reference)
    sorting = script("leaderboard.js")
    page = environment(markdown=False).get_template("leaderboard.html.jinja")
    html = page.render(content, style=style(), policy=policy(sorting), script=sorting)
    out.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("leaderboard.json", json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"),
        ("leaderboard.md", environment(markdown=True).get_template("leaderboard.md.jinja").render(content)),
        ("leaderboard.html", html),
    ):
        (out / name).write_text(text, encoding="utf-8")
    return out / "leaderboard.html"


def _read(paths: Sequence[Path], metric: str) -> list[Run]:
    folders = [results_folder(path) for path in paths]
    names = Counter(folder.resolve().name for folder in folders)
    runs = []
    for folder in folders:
        if [other.resolve() for other in folders].count(folder.resolve()) > 1:
            raise InputError(f"{folder} is named twice", field="runs")
        results = read_results(folder)
        if metric not in results.metrics:
            raise InputError(f"{folder} has no {metric}; it has {', '.join(results.metrics)}", field="metric")
        values = {name: read_per_query(folder, name).values(metric) for name in results.systems}
        for name, found in values.items():
            if not found or found.keys() != next(iter(values.values())).keys():
                path = str(folder / f"{name}.queries.json")
                raise DataFormatError(path, 0, f"{metric} of each query of the run", f"{len(found)} queries")
        name = folder.resolve().name
        runs.append(Run(name if names[name] == 1 else str(folder), folder, results, values))
    return runs


def leaderboard(runs: Sequence[Run], out: Path, metric: str, reference: str | None = None) -> dict[str, Any]:
    """What the page says, as JSON types.

    Args:
        runs: At least one.
        out: The page's folder, where its links start.
        metric: One that all runs have.
        reference: System that the others are compared with; None takes that of the first run.

    Raises:
        InputError: When no run has the reference, or two runs of one fingerprint have different queries.
    """
    columns = _columns(runs)
    differing = {name for column in columns for name in _disputed(column)}

    def row(run: Run, name: str) -> str:
        return f"{name} ({run.label})" if name in differing else name

    if reference is None and runs[0].results.reference in runs[0].results.systems:
        reference = row(runs[0], str(runs[0].results.reference))
    tables = [{row(run, name): (run, name) for run in reversed(column) for name in run.values} for column in columns]
    known = list(dict.fromkeys(name for table in tables for name in table))
    if reference is not None and reference not in known:
        raise InputError(f"no system {reference!r}; the systems are {', '.join(known)}", field="reference")
    cells = [_cells(table, metric, reference) for table in tables]
    labels = _labels(columns)
    systems = [_system(name, cells, is_reference=name == reference) for name in known]
    systems.sort(key=lambda one: (-one["measured"], -one["average"], one["name"]))
    best = max((one["mean"] for one in systems if one["mean"] is not None), default=None)
    for one in systems:
        one["best"] = one["mean"] is not None and one["mean"] == best
    content: dict[str, Any] = tidy(
        {
            "format": 1,
            "metric": metric,
            "reference": reference,
            "datasets": [
                _dataset(column, label, metric, out) for column, label in zip(columns, labels.values(), strict=True)
            ],
            "systems": systems,
            "apart": _apart(columns),
        }
    )
    return content


def _columns(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs of each column: those that ranked the same candidates and were judged alike."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        # without a fingerprint nobody knows, so the run stands alone
        found.setdefault(run.results.dataset.fingerprint or f"of {run.label}", []).append(run)
    for column in found.values():
        queries = [next(iter(run.values.values()), {}).keys() for run in column if run.values]
        if any(one != queries[0] for one in queries):
            names = " and ".join(run.label for run in column)
            raise InputError(f"{names} have one fingerprint but other queries; measure them again", field="runs")
    return list(found.values())


def _disputed(column: Sequence[Run]) -> set[str]:
    """Names of systems for which the runs of a column have different values."""
    first: dict[str, Mapping[str, float]] = {}
    return {name for run in column for name, values in run.values.items() if values != first.setdefault(name, values)}


def _labels(columns: Sequence[Sequence[Run]]) -> dict[int, str]:
    """A heading for each column; equal ones are numbered."""
    plain = [_heading(column[0]) for column in columns]
    seen: Counter[str] = Counter()
    labels = {}
    for place, heading in enumerate(plain):
        seen[heading] += 1
        labels[place] = f"{heading} ({seen[heading]})" if plain.count(heading) > 1 else heading
    return labels


def _heading(run: Run) -> str:
    return f"{run.results.dataset.name}, {run.results.settings.get('split', 'all')}"


def _apart(columns: Sequence[Sequence[Run]]) -> list[str]:
    """Datasets that have several columns."""
    found = Counter(_heading(column[0]) for column in columns)
    return [heading for heading, count in found.items() if count > 1]


def _cells(table: Mapping[str, tuple[Run, str]], metric: str, reference: str | None) -> dict[str, dict[str, Any]]:
    """A column's cells by row."""
    found: dict[str, dict[str, Any]] = {}
    means = {name: _reported(*place).metrics[metric] for name, place in table.items()}
    for name, (run, system) in table.items():
        low, high = _reported(run, system).intervals.get(metric, (None, None))
        found[name] = {
            "mean": means[name],
            "low": low,
            "high": high,
            "best": means[name] == max(means.values()),
            "run": run.label,
            "difference": None,
            "p_holm": None,
            "mark": "",
        }
    if reference is not None and reference in table:
        base = _values(table[reference])
        others = [name for name in table if name != reference]
        compared = [compare([_values(table[name])[query] for query in base], list(base.values())) for name in others]
        corrected = holm([one.p_randomisation for one in compared])
        for name, one, p in zip(others, compared, corrected, strict=True):
            mark = ("▲" if one.difference > 0 else "▼") if p < ALPHA else ""
            found[name] |= {"difference": one.difference, "p_holm": p, "mark": mark}
    return found


def _reported(run: Run, system: str) -> ReportedSystem:
    return run.results.systems[system]


def _values(place: tuple[Run, str]) -> Mapping[str, float]:
    run, system = place
    return run.values[system]


def _system(name: str, cells: Sequence[Mapping[str, dict[str, Any]]], *, is_reference: bool) -> dict[str, Any]:
    """A row; the mean over datasets is given only if the system was measured on all."""
    own = [column.get(name) for column in cells]
    means = [cell["mean"] for cell in own if cell]
    average = sum(means) / len(means)
    return {
        "name": name,
        "reference": is_reference,
        "cells": own,
        "measured": len(means),
        "average": average,
        "mean": average if len(means) == len(cells) else None,
    }


def _dataset(column: Sequence[Run], label: str, metric: str, out: Path) -> dict[str, Any]:
    results = column[0].results
    floor = results.random_floor.get(metric)
    return {
        "label": label,
        "source": results.dataset.source,
        "first_stage": results.dataset.first_stage,
        "fingerprint": results.dataset.fingerprint,
        "gains": results.dataset.gains,
        "queries": results.counts.queries,
        "candidates": results.counts.candidates,
        "unjudged": results.counts.unjudged,
        "floor": floor.model_dump() if floor else None,
        "runs": [
            {
                "name": run.label,
                "link": _link(run.folder / "report.html", out),
                "started": run.results.started[:10],
                "commit": run.results.commit[:12],
                "complete": run.results.complete,
            }
            for run in column
        ],
    }


def _link(file: Path, out: Path) -> str:
    """A relative address of a file; empty when it is not there."""
    if not file.is_file():
        return ""
    path = os.path.relpath(file.resolve(), out.resolve())
    return urllib.parse.quote(Path(path).as_posix())


if __name__ == "__main__":
    sys.exit(main())
