"""Fit the temperature that makes a reranker's scores probabilities (`genrank.calibration`).

::

    python -m eval.calibrate --config eval/configs/NAME.yaml [--system NAME] [--split dev] [--test SPLIT]
                             [--out FOLDER|FILE.json] [--cache FOLDER | --no-cache]

The configuration is one of `eval.run`; its split is not used. The fit minimises the negative log-likelihood of the
split's judged queries, each in one window. What was fitted, and how good the probabilities are before and after, is
printed as JSON; ``--test`` measures on another split too. ``--out`` stores the calibration: give the adapter's folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.cache import add_options, chosen_folder
from eval.config import RunConfig
from eval.run import make_requests
from eval.summary import EVENTS, Event, calibration_figures, outcomes
from eval.systems import run_system
from genrank.calibration import Calibration, save_calibration
from genrank.data.dataset import Dataset
from genrank.errors import ConfigError, EngineError, InputError, MissingExtraError
from genrank.experiment.config import load_config
from genrank.experiment.datasets import load_dataset
from genrank.experiment.metrics import relevant_grade
from genrank.experiment.program import exit_status, say
from genrank.experiment.systems import GenrankSystem, decoding_of
from genrank.types import Provenance

Windows = Sequence[tuple[Sequence[float], Sequence[float]]]
"""``[w]`` scores, ``[n]``, 0 to 1, and outcomes, ``[n]`` (`eval.summary.outcomes`)."""

TEMPERATURES = (0.01, 100.0)
"""The range that is searched."""

_TINY = 1e-300
_STEP = 2.0**-53  # 1 minus it is the greatest float below 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 1 for a failed run, 2 for a usage or configuration error.
    """
    parser = argparse.ArgumentParser(prog="python -m eval.calibrate", description="Fit a reranker's temperature.")
    parser.add_argument("--config", type=Path, required=True, help="a file of eval/configs, as eval.run takes it")
    parser.add_argument("--system", help="which of its systems (the only one of type genrank)")
    parser.add_argument("--split", default="dev", help="split whose queries it is fitted on (%(default)s)")
    parser.add_argument("--test", metavar="SPLIT", help="another split to measure on")
    parser.add_argument("--out", type=Path, help="an adapter's folder, or a .json file, that keeps it (none)")
    add_options(parser)
    options = parser.parse_args(arguments)
    return exit_status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    config = load_config(options.config, RunConfig)
    dataset = load_dataset(config.dataset, config.seed)
    system = _chosen(config, options.system)
    event, cache = EVENTS[decoding_of(system)], chosen_folder(options)
    say(f"{system.name} on {options.split} ...")
    windows, provenance = scored_windows(system, config, dataset, options.split, cache)
    temperature, bias = fit(event, windows)
    if temperature in TEMPERATURES:
        say(f"the temperature is at the end of its range, {temperature:g}: the scores say little, or there are too few")
    calibration = Calibration(
        "first-token" if event == "first" else "inline",
        temperature,
        bias,
        f"{dataset.name}, {options.split}: {len(windows)} queries",
        provenance.model,
        provenance.prompt_hash,
    )
    found = {options.split: measure(event, windows, calibration)}
    if options.test:
        say(f"{system.name} on {options.test} ...")
        others, _ = scored_windows(system, config, dataset, options.test, cache)
        found[options.test] = measure(event, others, calibration)
    stored = str(save_calibration(calibration, options.out)) if options.out else None
    print(
        json.dumps(
            {"system": system.name, **dataclasses.asdict(calibration), "event": event, "splits": found, "out": stored},
            indent=2,
            ensure_ascii=False,
        )
    )


def _chosen(config: RunConfig, name: str | None) -> GenrankSystem:
    """The system to fit, without a calibration of its own."""
    rerankers = {system.name: system for system in config.systems if isinstance(system, GenrankSystem)}
    if name is None and len(rerankers) != 1:
        raise InputError(f"there are {len(rerankers)} of type genrank: {', '.join(rerankers)}", field="--system")
    system = rerankers.get(name) if name is not None else next(iter(rerankers.values()))
    if system is None:
        raise InputError(f"no system {name!r} of type genrank; there are {', '.join(rerankers)}", field="--system")
    if decoding_of(system) not in EVENTS:
        raise InputError(f"{system.name} is {system.decoding}, which gives no probabilities", field="--system")
    return system.model_copy(update={"calibration": None, "reasons": 0})


def scored_windows(
    system: GenrankSystem, config: RunConfig, dataset: Dataset, split: str, cache: Path | None = None
) -> tuple[Windows, Provenance]:
    """The scores that a reranker gives to a split's judged queries, and the outcomes.

    Args:
        system: The reranker, without a calibration.
        config: Which candidates, at most how many queries, and from which grade a listing is relevant.
        dataset: The dataset that the queries come from.
        split: Split whose queries are ranked.
        cache: Folder of kept results; None keeps nothing.

    Returns:
        One window a query; and the provenance of the first.

    Raises:
        ConfigError: When a query's candidates take more than one window.
        EngineError: When the model could not rank a query.
        GenrankError: Whatever the reranker raises.
    """
    requests = make_requests(config.model_copy(update={"split": split}), dataset)
    requests = [request for request in requests if dataset.qrels.get(request.query.query_id)]
    if not requests:
        raise InputError(f"no query of it is judged; its splits are those of {dataset.name}", field=split)
    result = run_system(system, config, dataset, requests, cache)
    for ranking in result.rankings:
        if ranking.provenance.outcome == "fallback":
            raise EngineError(f"query {ranking.query_id} was not ranked by the model: {ranking.provenance.why}")
        if ranking.provenance.windows > ranking.provenance.passes:  # scores are lowered where windows meet
            raise ConfigError(
                f"max_candidates: query {ranking.query_id} took more than one window, and scores of several cannot be "
                f"calibrated; set it to the window of {system.name} or less"
            )
    relevant = relevant_grade(dataset.grades) if config.relevant is None else config.relevant
    event = EVENTS[decoding_of(system)]
    windows = []
    for ranking in result.rankings:
        judged = dataset.qrels[ranking.query_id]
        grades = [judged.get(item.listing_id) for item in ranking.items]
        windows.append(([item.score for item in ranking.items], outcomes(event, grades, relevant)))
    return windows, result.rankings[0].provenance


def fit(event: Event, windows: Windows) -> tuple[float, float]:
    """The temperature, within `TEMPERATURES`, and the bias that minimise the negative log-likelihood.

    Args:
        event: The event whose probabilities are wanted; ``first`` has no bias.
        windows: Uncalibrated scores.

    Raises:
        InputError: When there are fewer than two windows, or the outcome is the same for all listings.
        MissingExtraError: When scipy is not installed.
    """
    try:
        from scipy.optimize import minimize
        from scipy.special import log_softmax, logit
    except ImportError:
        raise MissingExtraError("scipy", "eval") from None
    if len(windows) < 2:
        raise InputError(f"{len(windows)} judged query; a calibration needs two or more, better 30", field="split")
    if event == "relevant":
        scores, came = (np.concatenate([np.asarray(part) for part in parts]) for parts in zip(*windows, strict=True))
        if not 0 < came.mean() < 1:
            raise InputError(f"all {len(came)} candidates are relevant, or none is; take other queries", field="split")
        odds = logit(np.clip(scores, _TINY, 1 - _STEP))

        def loss(at: np.ndarray[Any, Any]) -> float:
            bent = at[0] * odds + at[1]
            return float(np.mean(np.logaddexp(0, bent) - came * bent))
    else:
        if all(max(came) == min(came) for _, came in windows):
            raise InputError("no query has candidates of different grades; take other queries", field="split")
        logs = [(np.log(np.maximum(scores, _TINY)), np.asarray(came)) for scores, came in windows]

        def loss(at: np.ndarray[Any, Any]) -> float:
            return -sum(float(came @ log_softmax(at[0] * log)) for log, came in logs) / len(logs)

    low, high = TEMPERATURES
    bounds = [(1 / high, 1 / low), (-500.0, 500.0)][: 2 if event == "relevant" else 1]
    found = minimize(loss, [1.0, 0.0][: len(bounds)], method="L-BFGS-B", bounds=bounds).x
    return float(1 / found[0]), float(found[1]) if event == "relevant" else 0.0


def measure(event: Event, windows: Windows, calibration: Calibration) -> dict[str, Any]:
    """How good the probabilities of some windows are, before and after.

    Args:
        event: The event whose probabilities they are.
        windows: Uncalibrated scores.
        calibration: Turns them into probabilities.
    """
    after = [(calibration.apply(scores), came) for scores, came in windows]
    return {
        "queries": len(windows),
        "before": {"nll": _nll(event, windows)} | calibration_figures(event, windows),
        "after": {"nll": _nll(event, after)} | calibration_figures(event, after),
    }


def _nll(event: Event, windows: Windows) -> float:
    """Negative log-likelihood in nats: of ``relevant`` the mean over listings, of ``first`` over windows."""
    total = 0.0
    for chances, came in windows:
        for chance, true in zip(chances, came, strict=True):
            total -= true * math.log(max(chance, _TINY))
            if event == "relevant":
                total -= (1 - true) * math.log(max(1 - chance, _STEP))
    return total / (len(windows) if event == "first" else sum(len(chances) for chances, _ in windows))


if __name__ == "__main__":
    sys.exit(main())
