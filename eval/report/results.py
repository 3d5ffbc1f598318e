"""Reading what `eval.run` wrote: ``results.json`` and the values of each query, checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from genrank.errors import DataFormatError, InputError, first_problem
from genrank.files import read_text

M = TypeVar("M", bound=BaseModel)


class Part(BaseModel):
    """A part of ``results.json``; keys that it does not name are left out."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Data(Part):
    """The data that was measured on.

    Attributes:
        name: The dataset's name.
        source: Where it comes from.
        gains: What each grade is worth.
        relevant: Lowest relevant grade.
        fingerprint: Fingerprint of the queries, candidates and judgements.
        first_stage: Where the candidates' order came from.
    """

    name: str
    source: str = ""
    gains: dict[str, float]
    relevant: int | None = None
    fingerprint: str = ""
    first_stage: str = ""


class Counts(Part):
    """How much was measured.

    Attributes:
        queries: Number of queries.
        candidates: Over all queries.
        unjudged: Candidates without a judgement.
        queries_without_gain: Queries none of whose candidates has a gain.
        queries_without_relevant: Queries none of whose candidates is relevant.
    """

    queries: int
    candidates: int
    unjudged: int
    queries_without_gain: int = 0
    queries_without_relevant: int = 0


class FloorOf(Part):
    """Random orders: expectation and standard deviation of a metric's mean."""

    mean: float
    deviation: float | None = None


class Estimate(Part):
    """A mean and its 95 % interval."""

    mean: float
    low: float | None = None
    high: float | None = None


class Order(Part):
    """How closely an order follows the one in which the candidates came.

    Attributes:
        tau: Mean Kendall's tau, -1 to 1.
        mean_rank_by_place: Mean rank, 1-based, of the candidate that came at place 0, 1, ...
    """

    tau: float | None = None
    mean_rank_by_place: list[float | None] = []


class ReportedSystem(Part):
    """One system.

    Attributes:
        type: Its kind, such as ``genrank``.
        metrics: Means over queries.
        intervals: 95 % intervals, ``[low, high]``, by metric.
        counts: What became of a reranker's calls; empty for other systems.
        notes: Further counts, such as the candidates that a run from elsewhere lacks.
        seconds: Wall time of the ranking.
        load_seconds: Wall time before it.
        queries_per_second: 0 where unknown.
        cached: Whether the order comes from an earlier run.
        settings: Its part of the configuration.
        provenance: Model, prompt, decoding; of rerankers.
        order: Against the order of the candidates.
        slices: The primary metric by slice and group.
        calibration: How far probabilities are from the outcomes, by event.
        clicks: Metrics of click data.
        diversity: Metrics of diversity.
        exposure: Shares of exposure, such as by brand.
    """

    type: str
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]] = {}
    counts: dict[str, Any] = {}
    notes: dict[str, int] = {}
    seconds: float = 0.0
    load_seconds: float = 0.0
    queries_per_second: float = 0.0
    cached: bool = False
    settings: dict[str, Any] = {}
    provenance: dict[str, Any] = {}
    order: Order = Order()
    slices: dict[str, dict[str, Estimate]] = {}
    calibration: dict[str, Any] = {}
    clicks: dict[str, Any] = {}
    diversity: dict[str, Any] = {}
    exposure: dict[str, Any] = {}


class Paired(Part):
    """A system against the reference, over the same queries.

    Attributes:
        system: The one.
        reference: The other.
        metric: The metric of the values.
        difference: Mean of system minus reference.
        low: Lower end of its 95 % interval.
        high: Upper end.
        p_student: p-value of the paired t-test.
        p_randomisation: p-value of the randomisation test.
        p_holm: The latter, corrected for the number of comparisons.
        wins: Queries where the system is better.
        ties: Queries where both are equal.
        losses: Queries where the reference is better.
    """

    system: str
    reference: str
    metric: str
    difference: float
    low: float
    high: float
    p_student: float | None = None
    p_randomisation: float | None = None
    p_holm: float | None = None
    wins: int = 0
    ties: int = 0
    losses: int = 0


class Results(Part):
    """``results.json``, format 2.

    Attributes:
        complete: Whether all systems were measured.
        command: How the run was started.
        started: When, ISO 8601.
        commit: Commit of the clone.
        hardware: Where it ran.
        versions: Versions of packages.
        dataset: The data that was measured on.
        settings: The configuration but for the systems.
        metrics: Names of all metrics.
        primary: The metric that decides.
        counts: How much was measured.
        random_floor: By metric.
        slices: Sizes of the groups, by slice.
        reference: The system that others are compared with.
        systems: By name.
        comparisons: With the reference.
    """

    format: Literal[2]
    complete: bool
    command: str = ""
    started: str = ""
    commit: str = ""
    hardware: str = ""
    versions: dict[str, str] = {}
    dataset: Data
    settings: dict[str, Any] = {}
    metrics: Annotated[list[str], Field(min_length=1)]
    primary: str
    counts: Counts
    random_floor: dict[str, FloorOf]
    slices: dict[str, dict[str, int]] = {}
    reference: str | None = None
    systems: dict[str, ReportedSystem]
    comparisons: list[Paired] = []

    @field_validator("systems")
    @classmethod
    def _plain_names(cls, systems: dict[str, ReportedSystem]) -> dict[str, ReportedSystem]:
        for name in systems:
            if not name or Path(name).name != name or not name.isprintable():  # files are named after it
                raise ValueError(f"the system name {name[:80]!r} is not a plain file name")
        return systems

    @model_validator(mode="after")
    def _fits(self) -> Results:
        if self.primary not in self.metrics:
            raise ValueError(f"primary {self.primary!r} is not among the metrics {self.metrics}")
        for name, system in self.systems.items():
            if missing := [metric for metric in self.metrics if metric not in system.metrics]:
                raise ValueError(f"system {name!r} has no {missing[0]}")
        return self


class PerQuery(Part):
    """A system's values for each query.

    Attributes:
        queries: Query ids, ``[n]``.
        metrics: Values in the same order, ``[n]`` each.
    """

    queries: list[str]
    metrics: dict[str, list[float]]

    @model_validator(mode="after")
    def _fits(self) -> PerQuery:
        if len(set(self.queries)) < len(self.queries):
            raise ValueError("a query id repeats")
        for name, values in self.metrics.items():
            if len(values) != len(self.queries):
                raise ValueError(f"{len(values)} values of {name} for {len(self.queries)} queries")
        return self

    def values(self, metric: str) -> dict[str, float]:
        """One metric's values by query id; empty when it was not measured."""
        return dict(zip(self.queries, self.metrics.get(metric, ()), strict=False))


def read_results(path: str | Path) -> Results:
    """Read a results folder's ``results.json``.

    Args:
        path: The folder, or the file itself.

    Raises:
        InputError: When there is no such file.
        DataFormatError: When it is broken, or of another format.
    """
    file = results_folder(path) / "results.json"
    if not file.is_file():
        raise InputError(f"{path} holds no results.json; make it with python -m eval.run")
    values = _read_json(file)
    found = values.get("format") if isinstance(values, dict) else type(values).__name__
    if found != 2:
        raise DataFormatError(str(file), 0, "results of eval.run with format 2", f"{found!r}; run eval.run again")
    return _build(Results, values, file)


def results_folder(path: str | Path) -> Path:
    """The folder that a path names, itself or by its ``results.json``."""
    path = Path(path)
    return path.parent if path.name == "results.json" and not path.is_dir() else path


def read_per_query(folder: Path, system: str) -> PerQuery:
    """Read a system's values for each query.

    Raises:
        DataFormatError: When the file is missing or broken.
    """
    file = folder / f"{system}.queries.json"
    return _build(PerQuery, _read_json(file), file)


def _read_json(file: Path) -> Any:
    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant}, which is not a JSON number")

    try:
        return json.loads(read_text(file), parse_constant=refuse)
    except OSError as error:
        raise DataFormatError(str(file), 0, "a readable file", error.strerror or str(error)) from None
    except (ValueError, RecursionError) as error:
        found = "JSON nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DataFormatError(str(file), 0, "JSON", found) from None


def _build(kind: type[M], values: Any, file: Path) -> M:
    try:
        return kind.model_validate(values)
    except pydantic.ValidationError as error:
        place, message = first_problem(error.errors(include_url=False))
        raise DataFormatError(str(file), 0, f"a valid {place or kind.__name__}", message) from None
