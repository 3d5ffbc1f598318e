"""Fit the temperature that makes a reranker's scores probabilities, and its weight beside the first stage.

::

    python -m eval.calibrate --config eval/configs/NAME.yaml [--system NAME] [--split dev] [--test SPLIT]
                             [--blend [SYSTEM]] [--estimates FILE] [--out FOLDER|FILE.json]
                             [--cache FOLDER | --no-cache]

The configuration is one of `eval.run`; its split is not used. The fit minimises the negative log-likelihood of the
split's judged queries, each in one window (`genrank.calibration`). What was fitted, and how good the probabilities are
before and after, is printed as JSON; ``--test`` measures on another split too. ``--out`` stores the calibration: give
the adapter's folder.

``--blend`` also fits and stores the weight that the reranker's scores get beside the first stage's
(`genrank.blending`, `eval.blend.fit_weight`). The first stage is a system of the configuration; without a name it is
the score that each candidate has in the dataset. A reranker whose decoding gives no probabilities gets only a weight.

``--estimates`` prints the weight that `genrank.search.pipeline.Pipeline` should give the reranker's scores beside click
estimates (`genrank.search.feedback.estimates`). Of similar weights it is the greatest: estimates that do not help count
for nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.blend import fit_weight, standard_scores, worth_of_weights
from eval.cache import add_options, chosen_folder
from eval.config import BlendSystem, RunConfig
from eval.run import make_requests
from eval.summary import EVENTS, Event, calibration_figures, outcomes
from eval.systems import Scores, SystemResult, run_system
from genrank.blending import Blend, save_blend, standardised
from genrank.calibration import Calibration, save_calibration
from genrank.data.dataset import Dataset
from genrank.errors import ConfigError, EngineError, InputError, MissingExtraError
from genrank.experiment.config import load_config
from genrank.experiment.metrics import relevant_grade
from genrank.experiment.program import exit_status, say
from genrank.experiment.systems import GenrankSystem, decoding_of
from genrank.search.feedback.estimates import ClickEstimates
from genrank.types import Request

Windows = Sequence[tuple[Sequence[float], Sequence[float]]]
"""``[w]`` scores, ``[n]``, 0 to 1, and outcomes, ``[n]`` (`eval.summary.outcomes`)."""

TEMPERATURES = (0.01, 100.0)
"""The range that is searched."""

_CANDIDATES = "first-stage"  # the name that stands for the candidates' own scores
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
    parser.add_argument(
        "--blend",
        metavar="SYSTEM",
        nargs="?",
        const=_CANDIDATES,
        help="also fit a weight beside this system's scores (those of the candidates)",
    )
    parser.add_argument(
        "--estimates", type=Path, help="also fit a weight beside these click estimates (ClickEstimates)"
    )
    parser.add_argument("--out", type=Path, help="an adapter's folder, or a .json file, that keeps it (none)")
    add_options(parser)
    options = parser.parse_args(arguments)
    return exit_status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    config = load_config(options.config, RunConfig)
    dataset = config.load_dataset()
    system = _chosen(config, options.system, with_blend=bool(options.blend or options.estimates))
    cache = chosen_folder(options)
    ranked = {}
    for split in dict.fromkeys([options.split, *([options.test] if options.test else [])]):
        say(f"{system.name} on {split} ...")
        ranked[split] = rank_judged(system, config, dataset, split, cache)
    found: dict[str, Any] = {"system": system.name}
    event, stored = EVENTS.get(decoding_of(system)), None
    if event is not None:
        windows = {split: scored_windows(event, one, config, dataset) for split, one in ranked.items()}
        calibration = _calibration(event, windows[options.split], ranked[options.split], dataset, options.split)
        stored = str(save_calibration(calibration, options.out)) if options.out else None
        figures = {split: measure(event, one, calibration) for split, one in windows.items()}
        found |= {**dataclasses.asdict(calibration), "event": event, "splits": figures}
    if options.blend is not None:
        scores = {
            split: first_stage_scores(options.blend, config, dataset, requests, cache)
            for split, (requests, _) in ranked.items()
        }
        mixes = _mixes(ranked, scores, dataset, config.k)
        blend = _blend(fit_weight(mixes[options.split]), ranked[options.split], dataset, options)
        stored = str(save_blend(blend, options.out)) if options.out else None
        weights = {"first_stage": 0.0, "model": 1.0, "blended": blend.weight}
        found["blend"] = dataclasses.asdict(blend) | {"splits": _means(mixes, weights, config.k)}
    if options.estimates is not None:
        estimates = ClickEstimates.load(options.estimates)
        scores = {split: [click_scores(estimates, one) for one in requests] for split, (requests, _) in ranked.items()}
        mixes = _mixes(ranked, scores, dataset, config.k)
        weight = fit_weight(mixes[options.split], towards=1.0)
        means = _means(mixes, {"estimates": 0.0, "model": 1.0, "blended": weight}, config.k)
        with_data = {split: sum(map(any, some)) for split, some in scores.items()}
        found["estimates"] = {"weight": weight, "queries_with_data": with_data, "splits": means}
    print(json.dumps(found | {"out": stored}, indent=2, ensure_ascii=False))


def click_scores(estimates: ClickEstimates, request: Request) -> list[float]:
    """``[n]`` scores of a request's candidates, see `ClickEstimates.standard_scores`."""
    return estimates.standard_scores(request.query.text, [one.listing.listing_id for one in request.candidates])


def _mixes(
    ranked: Mapping[str, Judged], others: Mapping[str, Scores], dataset: Dataset, k: int
) -> dict[str, dict[float, list[float]]]:
    """`worth_of_weights` of the reranker and other standard scores, by split."""
    return {
        split: worth_of_weights(standard_scores(result, requests), others[split], requests, dataset, k)
        for split, (requests, result) in ranked.items()
    }


def _means(
    mixes: Mapping[str, Mapping[float, Sequence[float]]], weights: Mapping[str, float], k: int
) -> dict[str, dict[str, float]]:
    """Mean nDCG by split and by the names of some weights."""
    return {
        split: {f"ndcg@{k}_{name}": statistics.fmean(worth[weight]) for name, weight in weights.items()}
        for split, worth in mixes.items()
    }


def _chosen(config: RunConfig, name: str | None, *, with_blend: bool) -> GenrankSystem:
    """The system to fit, without a calibration or a blend of its own."""
    rerankers = {system.name: system for system in config.systems if isinstance(system, GenrankSystem)}
    if name is None and len(rerankers) != 1:
        raise InputError(f"there are {len(rerankers)} of type genrank: {', '.join(rerankers)}", field="--system")
    system = rerankers.get(name) if name is not None else next(iter(rerankers.values()))
    if system is None:
        raise InputError(f"no system {name!r} of type genrank; there are {', '.join(rerankers)}", field="--system")
    if decoding_of(system) not in EVENTS and not with_blend:
        raise InputError(f"{system.name} is {decoding_of(system)}, which gives no probabilities", field="--system")
    return system.model_copy(update={"calibration": False, "blend": False, "reasons": 0})


Judged = tuple[Sequence[Request], SystemResult]
"""Judged requests, and how a reranker ranked them."""


def rank_judged(
    system: GenrankSystem, config: RunConfig, dataset: Dataset, split: str, cache: Path | None = None
) -> Judged:
    """Let a reranker rank a split's judged queries.

    Args:
        system: The reranker, without a calibration and a blend.
        config: Which candidates, and at most how many queries.
        dataset: The dataset that the queries come from.
        split: Split whose queries are ranked.
        cache: Folder of kept results; None keeps nothing.

    Raises:
        InputError: When no query of the split is judged.
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
    return requests, result


def scored_windows(event: Event, judged: Judged, config: RunConfig, dataset: Dataset) -> Windows:
    """The scores of judged queries, and the outcomes: one window a query.

    Args:
        event: The event whose probabilities are wanted.
        judged: The queries, as they were ranked.
        config: From which grade a listing is relevant.
        dataset: The dataset that the queries come from.

    Raises:
        ConfigError: When a query's candidates take more than one window.
    """
    relevant = relevant_grade(dataset.grades) if config.relevant is None else config.relevant
    windows = []
    for ranking in judged[1].rankings:
        provenance = ranking.provenance
        # scores are lowered where windows meet; those of pointwise, one window a candidate, never meet
        if provenance.decoding != "pointwise" and provenance.windows > provenance.passes:
            raise ConfigError(
                f"max_candidates: query {ranking.query_id} took more than one window, and scores of several cannot be "
                f"calibrated; set it to the window ({provenance.window}) or less"
            )
        grades = [dataset.qrels[ranking.query_id].get(item.listing_id) for item in ranking.items]
        windows.append(([item.score for item in ranking.items], outcomes(event, grades, relevant)))
    return windows


def first_stage_scores(
    name: str, config: RunConfig, dataset: Dataset, requests: Sequence[Request], cache: Path | None = None
) -> Scores:
    """``[b][n]`` the first stage's scores, standardised within each request.

    Args:
        name: A system of the configuration; ``first-stage`` takes the score that each candidate has.
        config: The configuration.
        dataset: The dataset that the requests come from.
        requests: ``[b]``.
        cache: Folder of kept results; None keeps nothing.

    Raises:
        InputError: When there is no such system, or a candidate has no score.
        GenrankError: Whatever the system raises.
    """
    systems = {one.name: one for one in config.systems if not isinstance(one, BlendSystem | GenrankSystem)}
    if name in systems and systems[name].type != "first-stage":
        say(f"{name} ...")
        run = run_system(systems[name], config, dataset, requests, cache).run
        return [
            standardised([run[one.query.query_id][candidate.listing.listing_id] for candidate in one.candidates])
            for one in requests
        ]
    if name != _CANDIDATES:
        raise InputError(f"no first stage {name!r}; there are {', '.join(systems)}", field="--blend")
    found = []
    for one in requests:
        scores = [candidate.score for candidate in one.candidates]
        known = [score for score in scores if score is not None]
        if len(known) < len(scores):
            raise InputError(
                f"candidates of {dataset.name} have no first-stage scores (query {one.query.query_id}); give them some "
                f"with python -m eval.first_stage, or name a system of the configuration: {', '.join(systems)}",
                field="--blend",
            )
        found.append(standardised(known))
    return found


def _calibration(event: Event, windows: Windows, judged: Judged, dataset: Dataset, split: str) -> Calibration:
    temperature, bias = fit(event, windows)
    if temperature in TEMPERATURES:
        say(f"the temperature is at the end of its range, {temperature:g}: the scores say little, or there are too few")
    provenance = judged[1].rankings[0].provenance
    return Calibration(
        provenance.decoding,  # type: ignore[arg-type]  # it checks the decoding
        temperature,
        bias,
        f"{dataset.name}, {split}: {len(windows)} queries",
        provenance.model,
        provenance.prompt_hash,
    )


def _blend(weight: float, judged: Judged, dataset: Dataset, options: argparse.Namespace) -> Blend:
    requests, result = judged
    provenance = result.rankings[0].provenance
    name = options.blend
    if name == _CANDIDATES and dataset.first_stage:
        name = dataset.first_stage
    return Blend(
        provenance.decoding,  # type: ignore[arg-type]  # it checks the decoding
        weight,
        f"{dataset.name}, {options.split}: {len(requests)} queries beside {name}",
        provenance.model,
        provenance.prompt_hash,
    )


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
