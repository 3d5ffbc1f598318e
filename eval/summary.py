"""How good one system's result is, as the JSON of ``results.json``, and how systems compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from eval.clicks import User, auc, calibration_error, expected_calibration_error, interleave, ips, log_loss
from eval.config import ClickSettings, RunConfig
from eval.diversity import diversity, exposure
from eval.significance import compare, holm, interval
from eval.slices import slices
from eval.systems import SystemResult
from genrank.data.dataset import Dataset, Grade
from genrank.data.trec import Qrels, Run
from genrank.experiment.metrics import Measured, candidate_ids, measure, relevant_grade
from genrank.permutation import kendall_tau
from genrank.types import Listing, Request

Event = Literal["relevant", "first"]
"""What a probability is of: that the listing is relevant, or that it should come first."""

EVENTS: Mapping[str, Event] = {"pointwise": "relevant", "inline": "relevant", "first-token": "first"}
"""The event of each decoding that gives probabilities (`genrank.calibration`)."""

_PROVENANCE = ("model", "adapter", "prompt", "prompt_hash", "engine", "decoding", "strategy", "passes", "blend")


@dataclass(frozen=True)
class Setting:
    """What all systems of a run are measured on.

    Attributes:
        candidates: Listing ids by query, in the order in which they came.
        listings: By id.
        qrels: Judgements.
        grades: Meaning and gain of each grade.
        slices: Query ids by slice and group.
        k: Depth of the primary metric.
        cutoffs: Depths of nDCG.
        relevant: Lowest grade that is relevant.
        seed: Seed of resampling and simulation.
        clicks: Given where grades are clicks.
    """

    candidates: Mapping[str, Sequence[str]]
    listings: Mapping[str, Listing]
    qrels: Qrels
    grades: Mapping[int, Grade]
    slices: Mapping[str, Mapping[str, Sequence[str]]]
    k: int
    cutoffs: Sequence[int]
    relevant: int
    seed: int
    clicks: ClickSettings | None

    @classmethod
    def of(cls, config: RunConfig, dataset: Dataset, requests: Sequence[Request]) -> Setting:
        """The setting of a configuration."""
        candidates = candidate_ids(requests)
        return cls(
            candidates,
            dataset.listings,
            dataset.qrels,
            dataset.grades,
            slices([query for query in dataset.queries if query.query.query_id in candidates]),
            config.k,
            config.cutoffs,
            relevant_grade(dataset.grades) if config.relevant is None else config.relevant,
            config.seed,
            config.clicks,
        )

    @property
    def primary(self) -> str:
        """The metric that decides."""
        return f"nDCG@{self.k}"


def measure_system(result: SystemResult, setting: Setting) -> tuple[dict[str, Any], Measured]:
    """Measure one result.

    Returns:
        The system's entry in results.json, but for its type and settings; and the metrics by query.

    Raises:
        InputError: When the result does not order exactly the candidates.
    """
    measured = measure(
        result.run,
        setting.candidates,
        setting.qrels,
        setting.grades,
        k=setting.k,
        cutoffs=setting.cutoffs,
        relevant=setting.relevant,
    )
    primary = measured.per_query[setting.primary]
    summary: dict[str, Any] = {
        "metrics": measured.means,
        "intervals": {
            name: interval(list(values.values()), seed=setting.seed) for name, values in measured.per_query.items()
        },
        "counts": result.counts(),
        "notes": dict(result.notes),
        "seconds": round(result.seconds, 6),
        "load_seconds": round(result.load_seconds, 6),
        "queries_per_second": len(result.run) / max(result.seconds, 1e-9),
        "cached": result.cached,
        "order": _order(result.run, setting.candidates),
        "slices": {
            name: {group: _group([primary[query] for query in ids], setting.seed) for group, ids in groups.items()}
            for name, groups in setting.slices.items()
        },
        "diversity": diversity(result.run, setting.listings, setting.qrels, setting.relevant, k=setting.k),
        "exposure": exposure(result.run, setting.listings),
        "calibration": _calibration(result, setting),
        "clicks": _clicks(result, setting, setting.clicks) if setting.clicks else {},
    }
    if result.rankings:
        provenance = dataclasses.asdict(result.rankings[0].provenance)
        summary["provenance"] = {key: provenance[key] for key in _PROVENANCE}
    return summary, measured


def _group(values: Sequence[float], seed: int) -> dict[str, float]:
    low, high = interval(values, seed=seed)
    return {"mean": sum(values) / len(values), "low": low, "high": high}


def _order(run: Run, candidates: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """How the order depends on the one in which the candidates came: mean Kendall's tau, and mean rank by place."""
    taus = []
    ranks: list[list[int]] = [[] for _ in range(max(map(len, candidates.values())))]
    for query, ids in candidates.items():
        rank = {listing_id: rank for rank, listing_id in enumerate(run[query], start=1)}
        given = [rank[listing_id] for listing_id in ids]
        for place, one in enumerate(given):
            ranks[place].append(one)
        if len(ids) > 1:
            taus.append(kendall_tau(range(1, len(ids) + 1), given))
    return {
        "tau": sum(taus) / len(taus) if taus else None,
        "mean_rank_by_place": [sum(found) / len(found) for found in ranks],
    }


def outcomes(event: Event, grades: Sequence[int | None], relevant: int) -> list[float]:
    """The outcomes of one window's listings.

    Args:
        event: The event.
        grades: ``[n]``, None for a listing without a judgement: it is not relevant, and never the first.
        relevant: Lowest grade that is relevant.

    Returns:
        ``[n]``: 1 where the event happened, else 0. Where several listings share the best grade, each should come first
        with an equal part of 1.
    """
    if event == "relevant":
        return [float(grade is not None and grade >= relevant) for grade in grades]
    best = max((grade for grade in grades if grade is not None), default=None)
    return [1 / grades.count(best) if grade is not None and grade == best else 0.0 for grade in grades]


def _calibration(result: SystemResult, setting: Setting) -> dict[str, Any]:
    """How far probabilities are from the outcomes, by event; empty where there are none.

    A ranking of several windows has no probability of coming first, and a fallback's scores are places.
    """
    decoding = result.rankings[0].provenance.decoding if result.rankings else "inline"
    if result.probabilities is None or decoding not in EVENTS:
        return {}
    event = EVENTS[decoding]
    left_out = {
        ranking.query_id
        for ranking in result.rankings
        if ranking.provenance.outcome == "fallback"
        or (event == "first" and ranking.provenance.windows > ranking.provenance.passes)
    }
    windows = [
        (
            [result.probabilities[query][key] for key in ids],
            outcomes(event, [setting.qrels[query].get(key) for key in ids], setting.relevant),
        )
        for query, ids in setting.candidates.items()
        if query not in left_out and setting.qrels.get(query)
    ]
    return {event: calibration_figures(event, windows)} if windows else {}


def calibration_figures(
    event: Event, windows: Sequence[tuple[Sequence[float], Sequence[float]]]
) -> dict[str, float | int]:
    """How far probabilities are from the outcomes.

    Of ``first``, each window's highest probability counts, the result's confidence; of ``relevant``, all do.

    Args:
        event: The event whose probabilities they are.
        windows: ``[w]`` probabilities, ``[n]``, and `outcomes`, ``[n]``; at least one window.
    """
    pairs = [pair for chances, came in windows for pair in zip(chances, came, strict=True)]
    if event == "first":  # of equal ones the first, as a ranking has it
        pairs = [max(zip(chances, came, strict=True), key=lambda pair: pair[0]) for chances, came in windows]
    foretold, came = zip(*pairs, strict=True)
    return {
        "calibration_error": expected_calibration_error(foretold, came),
        "mean_probability": sum(foretold) / len(pairs),
        "mean_outcome": sum(came) / len(pairs),
        "probabilities": len(pairs),
    }


def _clicks(result: SystemResult, setting: Setting, settings: ClickSettings) -> dict[str, Any]:
    """What the clicks on the first stage's order say; a candidate without a judgement was not clicked."""
    clicks = {
        query: {key: int(setting.qrels.get(query, {}).get(key, -1) >= setting.relevant) for key in ids}
        for query, ids in setting.candidates.items()
    }
    clicked = {query: [key for key, one in found.items() if one] for query, found in clicks.items()}
    shown = {query: {key: -float(i) for i, key in enumerate(ids)} for query, ids in setting.candidates.items()}
    # places say nothing across queries: without scores there is only the AUC within each query
    areas = dataclasses.asdict(auc(result.probabilities or result.run, clicks))
    found: dict[str, Any] = {"auc": areas if result.probabilities else areas | {"overall": None}}
    if result.probabilities:
        found["log_loss"] = log_loss(result.probabilities, clicks)
        found["calibration_error"] = calibration_error(result.probabilities, clicks)
    valued = ips(result.run, setting.candidates, clicked, eta=settings.eta, clip=settings.clip, seed=setting.seed)
    found["ips"] = dataclasses.asdict(valued)
    found["interleaving_with_first_stage"] = {
        user: dataclasses.asdict(
            interleave(
                result.run,
                shown,
                setting.qrels,
                setting.grades,
                user=user,
                sessions=settings.sessions,
                k=setting.k,
                seed=setting.seed,
            )
        )
        for user in get_args(User)
    }
    return found


def compare_systems(
    values: Mapping[str, Mapping[str, Mapping[str, float]]], reference: str, setting: Setting
) -> list[dict[str, Any]]:
    """Compare each system with the reference by the primary metric, p-values corrected over all (Holm 1979).

    Args:
        values: ``{system: {metric: {query_id: value}}}``.
        reference: Name of a system; if it is not among `values`, nothing is compared.
        setting: Gives the metric and the seed.
    """
    if reference not in values:
        return []
    metric = setting.primary
    base = list(values[reference][metric].values())
    others = [name for name in values if name != reference]
    found = [compare(list(values[name][metric].values()), base, seed=setting.seed) for name in others]
    corrected = holm([one.p_randomisation for one in found]) if found else []
    return [
        {"system": name, "reference": reference, "metric": metric, **dataclasses.asdict(one), "p_holm": p}
        for name, one, p in zip(others, found, corrected, strict=True)
    ]
