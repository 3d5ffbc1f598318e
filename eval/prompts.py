"""Compare prompt templates: each with every decoding that it suits and every model, on a sample of queries.

::

    python -m eval.prompts --config eval/configs/prompts/NAME.yaml [--out DIR] [--cache FOLDER | --no-cache]

Writes ``prompts.json`` and ``prompts.md`` into DIR (runs/prompts-NAME) and prints a table. Answers are kept
(`eval.cache`), so an interrupted run continues where it stopped. Test queries are for the final figures: they are
taken only where the configuration asks for them.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eval.cache import add_options, chosen_folder
from eval.config import RunConfig
from eval.run import make_requests
from eval.significance import compare, holm, interval
from eval.systems import SystemResult, run_system
from genrank.data.dataset import Dataset
from genrank.errors import ConfigError, InputError
from genrank.experiment.config import Strict, load_config
from genrank.experiment.datasets import load_dataset
from genrank.experiment.fingerprints import requests_fingerprint
from genrank.experiment.metrics import candidate_ids, measure, random_floor
from genrank.experiment.program import exit_status, say
from genrank.experiment.record import circumstances
from genrank.experiment.systems import GenrankSystem
from genrank.prompting.template import Template, load_template, template_names
from genrank.types import Decoding, Dtype

SIGNIFICANT = 0.05
"""A difference is significant below this p, after Holm's correction."""

_SAMPLE = "sample"  # the split that the chosen queries are put into


class PromptsConfig(Strict):
    """One comparison of templates.

    Attributes:
        dataset: A dataset folder (``~`` is the home directory), or ``sample-shop``.
        splits: Whose queries are taken.
        max_candidates: Maximum number of candidates of each query, the first stage's best.
        limit: Maximum number of queries, chosen by a hash of seed and query id; None takes all.
        seed: Seed of the choice of queries and of the statistics.
        k: Depth of nDCG.
        templates: Names of templates or paths of ``.toml`` files; ``all`` takes those that ship with genrank.
        decodings: Each is tried with the templates that suit it.
        models: Known names, local folders or hub names.
        adapter: Folder or hub name of a LoRA adapter, for all models.
        window: Candidates in a window; ``pointwise`` has none.
        stride: Candidates by which the window moves; by default half the window.
        max_prompt_tokens: Token budget of one prompt.
        dtype: Number format of the weights.
        batch: Queries handed over at once.
    """

    dataset: str = "sample-shop"
    splits: Annotated[tuple[str, ...], Field(min_length=1)] = ("dev", "train")
    max_candidates: Annotated[int, Field(ge=1)] = 20
    limit: Annotated[int, Field(ge=1)] | None = None
    seed: int = 0
    k: Annotated[int, Field(ge=1)] = 10
    templates: Literal["all"] | Annotated[tuple[str, ...], Field(min_length=1)] = "all"
    decodings: Annotated[tuple[Decoding, ...], Field(min_length=1)] = get_args(Decoding)
    models: Annotated[tuple[str, ...], Field(min_length=1)]
    adapter: str | None = None
    window: Annotated[int, Field(ge=2)] = 20
    stride: Annotated[int, Field(ge=1)] | None = None
    max_prompt_tokens: int | None = None
    dtype: Dtype = "auto"
    batch: Annotated[int, Field(ge=1)] = 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 1 for a failed run, 2 for a usage or configuration error.
    """
    parser = argparse.ArgumentParser(prog="python -m eval.prompts", description="Compare prompt templates.")
    parser.add_argument("--config", type=Path, required=True, help="a file of eval/configs/prompts")
    parser.add_argument("--out", type=Path, help="folder for the results (runs/prompts-NAME of the configuration file)")
    add_options(parser)
    options = parser.parse_args(arguments)
    return exit_status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    config = load_config(options.config, PromptsConfig)
    results = run(config, cache=chosen_folder(options), command=f"python -m eval.prompts --config {options.config}")
    out = options.out or Path("runs") / f"prompts-{options.config.stem}"
    out.mkdir(parents=True, exist_ok=True)
    (out / "prompts.json").write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "prompts.md").write_text(markdown(results), encoding="utf-8")
    print_table(results, Console())
    say(f"written: {out / 'prompts.json'} and prompts.md")


def run(config: PromptsConfig, *, cache: Path | None = None, command: str = "") -> dict[str, Any]:
    """Measure every template with every decoding and model.

    Args:
        config: What to compare.
        cache: Folder of kept results; None keeps none.
        command: How the run was started, for the record.

    Returns:
        What prompts.json holds: ``cells`` with the best first, ``skipped`` with the reason of each, and ``best``.

    Raises:
        ConfigError: When a template or the dataset is missing, or no combination could be measured.
        InputError: When the splits hold no query.
        GenrankError: Whatever a model raises that cannot be fetched or run.
    """
    names = template_names() if config.templates == "all" else config.templates
    templates = {name: load_template(name) for name in names}
    if len({_label(template) for template in templates.values()}) < len(templates):
        raise ConfigError("templates: two have the same name and version; give one another version")
    metric = f"nDCG@{config.k}"
    cells: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    asked = list(_grid(config, templates))
    plan = RunConfig(
        dataset=config.dataset,
        split=_SAMPLE,
        max_candidates=config.max_candidates,
        limit=config.limit,
        seed=config.seed,
        k=config.k,
        systems=tuple(system for system, _ in asked),
    )
    dataset = _sample(load_dataset(plan.dataset, plan.seed), config.splits)
    requests = make_requests(plan, dataset)
    candidates, key = candidate_ids(requests), requests_fingerprint(requests)
    for number, (system, why) in enumerate(asked, start=1):
        template = templates[system.prompt or ""]
        cell = {"template": _label(template), "decoding": system.decoding or "", "model": system.model}
        if not why:
            say(f"{number}/{len(asked)} {_title(cell)} ...")
            try:
                result = run_system(system, plan, dataset, requests, cache, key)
            except (ConfigError, InputError) as error:  # for example: this tokenizer cannot read the template's answers
                why = str(error)
                say(f"skipped: {why}")
        if why:
            skipped.append({**cell, "why": why})
            continue
        measured = measure(result.run, candidates, dataset.qrels, dataset.grades, k=config.k)
        values = [measured.per_query[metric][query] for query in candidates]
        cells.append({**cell, "hash": template.digest, **_summary(result, values, config.seed)})
    if not cells:
        raise ConfigError(f"nothing could be measured; the last reason: {skipped[-1]['why']}")
    cells.sort(key=lambda cell: -cell["value"])
    floor = random_floor(candidates, dataset.qrels, dataset.grades, k=config.k)[metric]
    return {
        "format": 1,
        "command": command,
        **circumstances(),
        "dataset": dataset.name,
        "settings": config.model_dump(mode="json"),
        "metric": metric,
        "queries": list(candidates),
        "candidates": sum(map(len, candidates.values())),
        "random_floor": dataclasses.asdict(floor),
        "best": _against_best(cells, config.seed),
        "cells": cells,
        "skipped": skipped,
    }


def _grid(config: PromptsConfig, templates: Mapping[str, Template]) -> Iterator[tuple[GenrankSystem, str]]:
    """Every combination, and why the template does not suit the decoding; empty where it does."""
    combinations = itertools.product(dict.fromkeys(config.models), dict.fromkeys(config.decodings), templates)
    for number, (model, decoding, name) in enumerate(combinations, start=1):
        system = GenrankSystem(
            type="genrank",
            name=re.sub(r"[^A-Za-z0-9.-]+", "-", f"{number}-{templates[name].name}-{decoding}-{model}"),
            model=model,
            adapter=config.adapter,
            prompt=name,
            decoding=decoding,
            window=None if decoding == "pointwise" else config.window,
            stride=None if decoding == "pointwise" else config.stride,
            passes=1,  # what a prompt is worth by itself
            max_prompt_tokens=config.max_prompt_tokens,
            dtype=config.dtype,
            batch=config.batch,
        )
        yield system, templates[name].misfit(decoding)


def _sample(dataset: Dataset, splits: Sequence[str]) -> Dataset:
    """The dataset with the queries of these splits put into one."""
    chosen = [query for split in dict.fromkeys(splits) for query in dataset.split(split)]
    return dataclasses.replace(dataset, queries=[dataclasses.replace(query, split=_SAMPLE) for query in chosen])


def _summary(result: SystemResult, values: Sequence[float], seed: int) -> dict[str, Any]:
    """The figures of a cell; tokens and seconds are for one query."""
    counts, queries = result.counts(), len(values)
    low, high = interval(values, seed)
    return {
        "value": sum(values) / queries,
        "low": low,
        "high": high,
        "prompt_tokens": counts["prompt_tokens"] / queries,
        "completion_tokens": counts["completion_tokens"] / queries,
        "seconds": result.seconds / queries,
        "outcomes": {name: counts[name] for name in ("model", "repaired", "fallback")},
        "cuts": counts["cuts"],
        "values": list(values),
    }


def _against_best(cells: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Compare the first cell with every other one, record that in each, and say whether it beats them all."""
    best, *others = cells
    compared = [compare(best["values"], other["values"], seed=seed) for other in others]
    corrected = holm([one.p_randomisation for one in compared])
    best["behind_best"] = None
    for other, one, p in zip(others, compared, corrected, strict=True):
        other["behind_best"] = {**dataclasses.asdict(one), "p_holm": p}
    tied = [_title(other) for other, p in zip(others, corrected, strict=True) if p >= SIGNIFICANT]
    return {"cell": _title(best), "significant": bool(others) and not tied, "not_told_apart": tied}


def _label(template: Template) -> str:
    return f"{template.name}@{template.version}"


def _title(cell: Mapping[str, Any]) -> str:
    return f"{cell['template']} {cell['decoding']} {cell['model']}"


def verdict(results: Mapping[str, Any]) -> str:
    """Which cell is best, in one sentence that claims no more than the tests do."""
    best, others = results["best"], len(results["cells"]) - 1
    if not others:
        return f"Only {best['cell']} was measured."
    test = f"p < {SIGNIFICANT}, paired randomisation test, Holm over {others}"
    if best["significant"]:
        return f"{best['cell']} is significantly better than every other one ({test})."
    return (
        f"No significant winner ({test}). {best['cell']} has the highest mean, but it cannot be distinguished from "
        f"{len(best['not_told_apart'])} of {others}: {', '.join(best['not_told_apart'])}."
    )


def _rows(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    headings = ["template", "decoding", "model", results["metric"], "95 % interval", "p to the best",
                "prompt tokens", "written tokens", "seconds", "repaired", "fallback"]  # fmt: skip
    rows = []
    for cell in results["cells"]:
        behind, outcomes = cell["behind_best"], cell["outcomes"]
        mark = " *" if behind is None and results["best"]["significant"] else ""
        rows.append(
            [
                cell["template"] + mark,
                cell["decoding"],
                cell["model"],
                f"{cell['value']:.4f}",
                f"{cell['low']:.3f} to {cell['high']:.3f}",
                f"{behind['p_holm']:.3f}" if behind else "",
                f"{cell['prompt_tokens']:,.0f}",
                f"{cell['completion_tokens']:,.0f}",
                f"{cell['seconds']:.2f}",
                str(outcomes["repaired"]),
                str(outcomes["fallback"]),
            ]
        )
    return headings, rows


def _notes(results: Mapping[str, Any]) -> list[str]:
    settings, floor = results["settings"], results["random_floor"]
    sample = (
        f"{len(results['queries'])} queries of {results['dataset']} ({', '.join(settings['splits'])}), "
        f"{results['candidates']} candidates, seed {settings['seed']}; tokens and seconds are for one query; a random "
        f"order has {results['metric']} {floor['mean']:.4f}."
    )
    return [sample, verdict(results)]


def _skipped(results: Mapping[str, Any]) -> list[str]:
    """What was not measured, one line for each decoding, model and reason."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for cell in results["skipped"]:
        groups.setdefault((cell["decoding"], cell["model"], cell["why"]), []).append(cell["template"])
    return [f"{decoding} {model}: {', '.join(found)} ({why})" for (decoding, model, why), found in groups.items()]


def print_table(results: Mapping[str, Any], console: Console) -> None:
    """Print results as a table, with notes on how to read them underneath.

    Args:
        results: What `run` returned.
        console: Where to; one that is not a terminal gets lines of any length.
    """
    headings, rows = _rows(results)
    table = Table(title=f"prompts on {results['dataset']}")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < 3 else "right", no_wrap=not console.is_terminal)
    for row in rows:
        table.add_row(*map(escape, row))
    if not console.is_terminal:
        console.width = max(console.width, 240)
    console.print(table)
    for note in _notes(results):
        console.print(note, highlight=False, soft_wrap=True, markup=False)
    for words in _skipped(results):
        console.print(f"skipped: {words}", highlight=False, soft_wrap=True, markup=False)


def markdown(results: Mapping[str, Any]) -> str:
    """The results as a page of markdown."""
    headings, rows = _rows(results)
    lines = [f"# Prompts on {results['dataset']}", "", *_notes(results), ""]
    lines += [f"| {' | '.join(row)} |" for row in (headings, ["---"] * 3 + ["---:"] * (len(headings) - 3), *rows)]
    if results["skipped"]:
        lines += ["", "Skipped:", "", *(f"- {words}" for words in _skipped(results))]
    lines += ["", f"`{results['command']}`, commit {results['commit'] or 'unknown'}, {results['hardware']}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
