"""Measure several systems on the same queries and candidates.

::

    python -m eval.run --config eval/configs/NAME.yaml [--out runs/NAME] [--cache FOLDER | --no-cache]

Each system's result is kept (`eval.cache`), so an interrupted run continues where it stopped, and a second run is
quick. The folder gets, for each system, ``SYSTEM.trec``, ``SYSTEM.queries.json`` (metrics by query) and, if the system
is genrank itself, ``SYSTEM.jsonl`` (ranking lines); ``qrels/``, the judgements for trec_eval (`eval.trec_eval`);
``results.json``, rewritten after each system (``"complete": false`` until the last); and the report, ``report.html``,
``report.md`` and ``report.json`` (`eval.report`). A table goes to stdout, messages and progress bars to stderr.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from eval.blend import blend
from eval.cache import add_options, chosen_folder
from eval.config import ALL, BlendSystem, RandomSystem, RunConfig
from eval.report import write_report
from eval.summary import Setting, compare_systems, measure_system
from eval.systems import SystemResult, run_system
from eval.trec_eval import whole_gains, write_trec_qrels
from genrank.data.dataset import Dataset
from genrank.data.jsonl import write_rankings
from genrank.data.trec import write_run
from genrank.errors import ConfigError, GenrankError, InputError
from genrank.experiment.config import load_config
from genrank.experiment.datasets import has_gain
from genrank.experiment.fingerprints import requests_fingerprint
from genrank.experiment.metrics import Floor, random_floor
from genrank.experiment.program import exit_status, say
from genrank.experiment.record import circumstances
from genrank.experiment.splits import digest
from genrank.files import fingerprint, write_atomically
from genrank.types import Request


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 1 for a failed run, 2 for a usage or configuration error.
    """
    parser = argparse.ArgumentParser(prog="python -m eval.run", description="Measure systems on a dataset.")
    parser.add_argument("--config", type=Path, required=True, help="a file of eval/configs")
    parser.add_argument("--out", type=Path, help="folder for the results (runs/NAME of the configuration file)")
    add_options(parser)
    options = parser.parse_args(arguments)
    return exit_status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    config = load_config(options.config, RunConfig)
    dataset = config.load_dataset()
    out = options.out or Path("runs") / options.config.stem
    results = run(
        config, dataset, out, cache=chosen_folder(options), command=f"python -m eval.run --config {options.config}"
    )
    print_table(results, Console())
    say(f"the report is {write_report(out, dataset)}")


def make_requests(config: RunConfig, dataset: Dataset) -> list[Request]:
    """The requests that all systems get.

    Raises:
        InputError: When the split holds no query, a query has no candidate, or none has one with a gain where only
            such queries are asked for.
    """
    queries = dataset.queries if config.split == ALL else dataset.split(config.split)
    for query in queries:
        # Dataset.request would fall back to the judged listings: an easier list than the first stage's
        if query.query.query_id not in dataset.candidates:
            where = config.first_stage or "candidates.trec"
            raise InputError(f"query {query.query.query_id} has no line in {where}", field="candidates")
    requests = [dataset.request(query, config.max_candidates) for query in queries]
    if config.with_gain:
        requests = [request for request in requests if has_gain(request, dataset)]
        if not requests:
            raise InputError("no query has a candidate with a gain; leave it out", field="with_gain")
    if config.limit is not None:
        requests.sort(key=lambda request: digest(str(config.seed), request.query.query_id))
        requests = requests[: config.limit]
    return requests


def run(
    config: RunConfig, dataset: Dataset, out: Path, *, cache: Path | None = None, command: str = ""
) -> dict[str, Any]:
    """Measure all systems of a configuration and write the results.

    Args:
        config: What to measure.
        dataset: The dataset to measure on.
        out: Folder for the files; created if it is missing.
        cache: Folder of kept results; None computes all and keeps none.
        command: How the run was started, for the record.

    Returns:
        What results.json holds.

    Raises:
        GenrankError: Whatever a system raises.
    """
    requests = make_requests(config, dataset)
    others = [system.name for system in config.systems if not isinstance(system, RandomSystem)]
    reference = config.reference or (others[0] if others else config.systems[0].name)
    record = Record(config, dataset, requests, out, reference, len(config.systems), command)
    by_name: dict[str, SystemResult] = {}
    elsewhere: dict[tuple[str, str], SystemResult] = {}
    for system in config.systems:
        say(f"{system.name} ...")
        try:
            if isinstance(system, BlendSystem):
                fitted_on = functools.partial(_results_to_fit_on, system, config, dataset, cache, elsewhere)
                result, weight = blend(system, by_name, requests, dataset, fitted_on, config.k)
                system = system.model_copy(update={"weight": weight})
            else:
                result = run_system(system, config, dataset, requests, cache, record.asked)
        except GenrankError:
            say(f"{system.name} failed; results of the systems before it are in {out}")
            raise
        by_name[system.name] = result
        record.add(system.name, system.type, system.model_dump(mode="json"), result)
    return record.results


class Record:
    """Writes the results of systems into a folder as they come in.

    Args:
        config: What is measured; its systems have no part in it.
        dataset: The dataset that the requests come from.
        requests: ``[b]`` that all systems rank.
        out: The folder; created if it is missing.
        reference: Name of the system that the others are compared with.
        count: How many systems will come.
        command: How the run was started.

    Attributes:
        results: What results.json holds.
        asked: `requests_fingerprint` of the requests.

    Raises:
        ConfigError: When ``relevant`` is no grade of the dataset.
    """

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        requests: Sequence[Request],
        out: Path,
        reference: str,
        count: int,
        command: str,
    ) -> None:
        if config.relevant is not None and config.relevant not in dataset.grades:
            raise ConfigError(f"relevant: no grade {config.relevant}; the grades are {sorted(dataset.grades)}")
        self._setting = Setting.of(config, dataset, requests)
        self._out, self._count = out, count
        self._values: dict[str, Mapping[str, Mapping[str, float]]] = {}
        self.asked = requests_fingerprint(requests)
        self.results = _header(config, dataset, self.asked, self._setting, reference, command)
        write_trec_qrels(out, self._setting.candidates, dataset.qrels, dataset.grades)

    def add(self, name: str, kind: str, settings: Mapping[str, Any], result: SystemResult) -> None:
        """Measure a system's result and write its files; results.json is rewritten.

        Args:
            name: The system's name.
            kind: Its type.
            settings: Its part of the configuration, as JSON types.
            result: Its ranking of the requests.
        """
        out, setting, results = self._out, self._setting, self.results
        if counted := ", ".join(f"{count} {what}" for what, count in result.notes.items() if count):
            say(f"{name}: {counted}".replace("_", " "))
        summary, measured = measure_system(result, setting)
        self._values[name] = measured.per_query
        write_run(out / f"{name}.trec", result.run, tag=name)
        if result.rankings:
            write_rankings(out / f"{name}.jsonl", result.rankings)
        queries = list(setting.candidates)
        by_metric = {metric: [found[query] for query in queries] for metric, found in measured.per_query.items()}
        _write_json(out / f"{name}.queries.json", {"queries": queries, "metrics": by_metric})
        results["systems"][name] = {"type": kind, **summary, "settings": settings}
        results["counts"] = {
            "queries": measured.queries,
            "candidates": sum(map(len, setting.candidates.values())),
            "unjudged": measured.unjudged,
            "queries_without_gain": measured.without_gain,
            "queries_without_relevant": measured.without_relevant,
        }
        results["comparisons"] = compare_systems(self._values, results["reference"], setting)
        results["complete"] = len(results["systems"]) == self._count
        _write_json(out / "results.json", results)


def _results_to_fit_on(
    system: BlendSystem,
    config: RunConfig,
    dataset: Dataset,
    cache: Path | None,
    known: dict[tuple[str, str], SystemResult],
) -> tuple[list[Request], dict[str, SystemResult]]:
    """The results of a blend's parts on the queries on which its weight is fitted.

    `known` holds results by split and system, for other blends of the same parts.
    """
    requests = make_requests(config.model_copy(update={"split": system.fit, "limit": None}), dataset)
    parts = [part for part in config.systems if part.name in system.systems and not isinstance(part, BlendSystem)]
    for part in parts:
        if (system.fit, part.name) not in known:
            known[system.fit, part.name] = run_system(part, config, dataset, requests, cache)
    return requests, {part.name: known[system.fit, part.name] for part in parts}


def _header(
    config: RunConfig, dataset: Dataset, asked: str, setting: Setting, reference: str, command: str
) -> dict[str, Any]:
    floor = random_floor(
        setting.candidates,
        dataset.qrels,
        dataset.grades,
        k=config.k,
        cutoffs=config.cutoffs,
        relevant=config.relevant,
    )
    gains = {str(grade): meaning.gain for grade, meaning in sorted(dataset.grades.items())}
    judged = {query: dataset.qrels.get(query, {}) for query in setting.candidates}
    return {
        "format": 2,
        "complete": False,
        "command": command,
        **circumstances(),
        "dataset": {
            "name": dataset.name,
            "source": dataset.source,
            "gains": gains,
            "trec_gains": {str(grade): gain for grade, gain in sorted(whole_gains(dataset.grades).items())},
            "relevant": setting.relevant,
            "first_stage": dataset.first_stage,
            "fingerprint": fingerprint([asked, judged, gains, setting.relevant])[:16],
        },
        "settings": config.model_dump(mode="json", exclude={"systems"}),
        "metrics": list(floor),
        "primary": setting.primary,
        "random_floor": {name: dataclasses.asdict(value) for name, value in floor.items()},
        "reference": reference,
        "slices": {name: {group: len(ids) for group, ids in found.items()} for name, found in setting.slices.items()},
        "systems": {},
    }


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with write_atomically(path) as part:
        part.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def print_table(results: Mapping[str, Any], console: Console) -> None:
    """Print results as a table, with notes on how to read them underneath.

    Args:
        results: What `run` returned.
        console: Where to; one that is not a terminal gets lines of any length.
    """
    floor = {name: Floor(**value) for name, value in results["random_floor"].items()}
    primary = results["primary"]
    # the same nDCG with other gains is for the report
    metrics = [name for name in floor if name != primary and not name.startswith(("nDCG-linear", "nDCG-exponential"))]
    table = Table(title=f"{results['dataset']['name']}, {results['settings']['split']}")
    table.add_column("system", no_wrap=True)
    against = {one["system"]: one for one in results["comparisons"]}
    for name in (primary, f"against {results['reference']}", *metrics, "queries/s", "repaired", "fallback"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row("random, expected", _spread(floor[primary]), "", *(f"{floor[name].mean:.4f}" for name in metrics))
    for name, one in results["systems"].items():
        low, high = one["intervals"][primary]
        difference = against.get(name)
        table.add_row(
            name,
            f"{one['metrics'][primary]:.4f} [{low:.3f}, {high:.3f}]",
            f"{difference['difference']:+.4f}, p {difference['p_holm']:.3f}" if difference else "",
            *(f"{one['metrics'][metric]:.4f}" for metric in metrics),
            f"{one['queries_per_second']:.3g}",
            *(str(one["counts"].get(key, "")) for key in ("repaired", "fallback")),
        )
    if not console.is_terminal:
        console.width = max(console.width, 180)
    console.print(table)
    counts, settings, dataset = results["counts"], results["settings"], results["dataset"]
    gains = ", ".join(f"{grade}: {gain:.4g}" for grade, gain in dataset["gains"].items())
    console.print(
        f"{counts['queries']} queries, {counts['candidates']} candidates (at most {settings['max_candidates']} a "
        f"query), {counts['unjudged']} of them unjudged; {counts['queries_without_gain']} queries without any gain; "
        f"seed {settings['seed']}\n"
        f"gain by grade {gains}; ideal over the candidates; relevant from grade {dataset['relevant']}; equal scores "
        f"keep the candidates' order, those of a run from elsewhere are ordered by falling listing id\n"
        f"[low, high] is a 95 % bootstrap interval over queries, p of a paired randomisation test after Holm; ± is the "
        f"standard deviation from one random run to the next",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


def _spread(floor: Floor) -> str:
    return f"{floor.mean:.4f}" + (f" ± {floor.deviation:.4f}" if floor.deviation is not None else "")


if __name__ == "__main__":
    sys.exit(main())
