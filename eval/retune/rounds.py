"""One round of re-tuning, from the feedback log to a version that is served or refused.

A round is a folder ``round-0001`` with what was done so far::

    round.json      the period of the log, the version that is served, what is learned
    new/            the period's feedback as a dataset, corrected for position bias
    data/           the same, mixed with older data: what is learned
    trained/        what the training writes
    results/        the held-out queries, ranked by both versions (`eval.run`)
    report.json     the decision; it comes last, so a round without one is not finished

A round that was killed goes on where it was: its data stay as they are, the training continues from its checkpoints,
and rankings are kept (`eval.cache`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from eval.compare import Compared, compare_results
from eval.config import RunConfig, System
from eval.crossval import SftTraining, Training, options_of, program_of, run_program, trained_system
from eval.retune.config import GateSettings, RetuneConfig
from eval.retune.mixing import Identity, mixed
from eval.retune.page import page
from eval.run import run
from genrank.adapters import FILE, FITS, merge_values, read_values
from genrank.data.dataset import Dataset
from genrank.data.jsonl import read_listings
from genrank.errors import ConfigError, GenrankError, InputError
from genrank.experiment.datasets import load_dataset
from genrank.experiment.program import say
from genrank.experiment.record import circumstances
from genrank.experiment.splits import query_identity
from genrank.experiment.systems import GenrankSystem
from genrank.files import files_fingerprint, fingerprint, write_atomically, write_folder_atomically
from genrank.models.versions import AdapterVersions, Version
from genrank.search.feedback.bias import LONG_AGO, attractions, estimate
from genrank.search.feedback.log import FeedbackLog
from genrank.search.feedback.training import TrainingSet, training_set
from genrank.types import Listing

Outcome = Literal["promoted", "refused", "waiting", "busy"]
"""``waiting``: there is too little feedback yet. ``busy``: another round is running."""

Program = Callable[[Sequence[str], Path, Sequence[int]], int]
"""Runs a module with arguments, as `eval.crossval.run_program` does."""

ROUND, REPORT = "round.json", "report.json"
_MEASURED = ("dev", "test")


@dataclass(frozen=True)
class Check:
    """A condition of a promotion.

    Attributes:
        name: What is checked.
        passed: Whether it holds.
        words: The figures.
    """

    name: str
    passed: bool
    words: str


def retune(
    config: RetuneConfig,
    out: Path,
    *,
    cache: Path | None = None,
    command: str = "",
    now: datetime | None = None,
    program: Program = run_program,
) -> tuple[Outcome, dict[str, Any]]:
    """Finish the round that was begun, or else do the next one.

    Args:
        config: What to do.
        out: Folder of the rounds; created if it is missing.
        cache: Folder of kept rankings; None keeps none.
        command: How the round was started, for the record.
        now: The end of the period, before `FeedbackSettings.settle_minutes`; None takes the clock.
        program: Runs the training.

    Returns:
        What became of it, and the report; an empty one where there was nothing to do.

    Raises:
        ConfigError: When no version is served yet, or the round was begun with another configuration.
        InputError: When the log does not tell position bias from merit, or another version was promoted by hand while
            this one was compared.
        GenrankError: When the training fails, or whatever the ranking raises.
    """
    versions = AdapterVersions(config.adapters)
    if versions.current() is None:
        raise ConfigError(
            f"adapters: no version is served in {config.adapters}; begin with genrank adapters add, then promote"
        )
    with _alone(versions.folder / ".round.lock") as held:
        if held is None:
            return "busy", {}
        folder = _unfinished(out, config) or _begin(config, versions, out, now)
        if folder is None:
            return "waiting", {}
        say(f"{folder.name} ...")
        trained = _train(config, versions, folder, lambda arguments, log: program(arguments, log, [held]))
        results = _measure(config, versions, folder, trained, cache, command)
        report = _decide(config, versions, folder, trained, results, command)
    return report["outcome"], report


def finished(out: Path) -> list[dict[str, Any]]:
    """The reports of all finished rounds, oldest first."""
    return [read_values(folder / REPORT) for folder in _folders(out) if (folder / REPORT).is_file()]


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[int | None]:
    """Hold a lock that a training inherits: if the round is killed, none begins while its training still runs.

    Yields:
        The lock's file descriptor; None if another round holds it.
    """
    import fcntl

    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield file.fileno()


def _folders(out: Path) -> list[Path]:
    return sorted(out.glob("round-[0-9]*"), key=lambda path: int(path.name.split("-")[1]))


def _unfinished(out: Path, config: RetuneConfig) -> Path | None:
    folders = _folders(out)
    if not folders or (folders[-1] / REPORT).is_file():
        return None
    if read_values(folders[-1] / ROUND)["config"] != _fingerprint(config):
        raise ConfigError(
            f"{folders[-1]} was begun with another configuration; finish it with that one, or delete the folder"
        )
    return folders[-1]


def _fingerprint(config: RetuneConfig) -> str:
    return fingerprint([config.model_dump(mode="json"), options_of(config.train)])


def _begin(config: RetuneConfig, versions: AdapterVersions, out: Path, now: datetime | None) -> Path | None:
    """A new round with its data; None when there is too little feedback."""
    done = finished(out)
    now = (now or datetime.now(UTC)).astimezone(UTC).replace(tzinfo=None)
    since = datetime.fromisoformat(done[-1]["until"]) if done else LONG_AGO
    until = now - timedelta(minutes=config.feedback.settle_minutes)
    held_out = load_dataset(config.held_out.dataset, config.seed)
    barred = {query_identity(q) for q in held_out.queries if q.split in (*_MEASURED, config.held_out.split)}
    current = versions.current()
    if current is None:
        raise ConfigError(f"adapters: no version is served in {config.adapters}; promote one")
    propensities, made = learned(config, since, until, barred)
    count = len(made.dataset.queries) if made else 0
    if made is None or count < config.feedback.least_queries:
        say(f"feedback for {count} queries since {since}; a round needs {config.feedback.least_queries}")
        return None
    rounds = [
        Dataset.load(path)
        for version in versions.lineage(current.name)
        if (path := Path(version.training.get("new", ""))).name and path.is_dir()
    ]
    originals = [load_dataset(name, config.seed) for name in config.replay.originals]
    data, counts = mixed(made.dataset, rounds, originals, config.replay, barred, config.seed)
    out.mkdir(parents=True, exist_ok=True)
    folder = out / f"round-{len(_folders(out)) + 1:04d}"
    with write_folder_atomically(folder) as part:
        made.save(part / "new")
        data.save(part / "data")
        values = {
            "config": _fingerprint(config),
            "since": since.isoformat(),
            "until": until.isoformat(),
            "parent": current.name,
            "propensities": propensities,
            "queries": counts,
            "data": files_fingerprint(part / "data"),
            "left_out": {
                "seldom_seen": made.seldom_seen,
                "unknown": made.unknown,
                "undecided": made.undecided,
            },
        }
        _write_json(part / ROUND, values)
    return folder


def learned(
    config: RetuneConfig, since: datetime, until: datetime, barred: set[Identity]
) -> tuple[Sequence[float], TrainingSet | None]:
    """The propensities of the whole log until then, and what the period teaches; None where it teaches nothing.

    Args:
        config: Gives the log and the catalogue.
        since: Lists shown from then on, UTC.
        until: Lists shown before then, UTC.
        barred: Queries that must not be learned.

    Raises:
        InputError: When the log does not tell position bias from merit.
    """
    settings = config.feedback
    log = FeedbackLog(Path(settings.log).expanduser())
    (row,) = log.query(
        "SELECT count(*) AS shown FROM impressions WHERE time >= ? AND time < ?", [since, until]
    ).to_pylist()
    if not row["shown"]:
        return (), None
    propensities = estimate(log, kind=settings.kind, until=until, ranks=settings.ranks).values
    found = attractions(
        log,
        propensities,
        kind=settings.kind,
        prior=settings.prior,
        most_lists=settings.most_lists,
        since=since,
        until=until,
    )
    try:
        made = training_set(found, _catalogue(settings.listings), least_examined=settings.least_examined)
    except InputError:
        return propensities, None
    kept = [query for query in made.dataset.queries if query_identity(query) not in barred]
    return propensities, dataclasses.replace(made, dataset=_with_queries(made.dataset, kept)) if kept else None


def _with_queries(dataset: Dataset, queries: Sequence[Any]) -> Dataset:
    ids = {query.query.query_id for query in queries}
    qrels = {key: judged for key, judged in dataset.qrels.items() if key in ids}
    candidates = {key: found for key, found in dataset.candidates.items() if key in ids}
    return dataclasses.replace(dataset, queries=queries, qrels=qrels, candidates=candidates)


def _catalogue(name: str) -> Mapping[str, Listing]:
    path = Path(name).expanduser()
    if name == "sample-shop" or path.is_dir():
        return load_dataset(name).listings
    return {listing.listing_id: listing for listing in read_listings(path)}


def _train(
    config: RetuneConfig,
    versions: AdapterVersions,
    folder: Path,
    program: Callable[[Sequence[str], Path], int],
) -> Path:
    """Train, unless it is done; returns the folder of the new ranker."""
    out, done = folder / "trained", folder / "trained.done"
    trained = out / "adapter" if isinstance(config.train, SftTraining) else out
    if done.exists():
        return trained
    data = str((folder / "data").resolve())
    values = options_of(config.train)
    parent = versions.path(read_values(folder / ROUND)["parent"])
    if isinstance(config.train, SftTraining):
        measured = [*values.get("measured", ()), config.held_out.dataset]
        values = {"dev": config.held_out.dataset} | values
        values |= {"datasets": [data], "measured": measured, "leaks": "drop", "adapter": str(parent)}
    else:
        values |= {"dataset": data}
    status = program(program_of(config.train, values, folder / "train.yaml", out), folder / "train.log")
    if status:
        raise GenrankError(
            f"the training of {folder} ended with status {status}; start it again, or delete the folder to give it up"
        )
    if (parent / FILE).is_file():  # it is served as its parent was, until they are fitted again
        kept = {key: value for key, value in read_values(parent / FILE).items() if key in FITS}
        merge_values(trained / FILE, kept)
    done.touch()
    return trained


def _measure(
    config: RetuneConfig, versions: AdapterVersions, folder: Path, trained: Path, cache: Path | None, command: str
) -> dict[str, Any]:
    """Rank the held-out queries with the version that is served, the new one and the first of its line."""
    held_out = config.held_out
    line = versions.lineage(read_values(folder / ROUND)["parent"])
    folders = {"current": versions.path(line[0].name), "candidate": trained}
    if len(line) > 1:
        folders["first"] = versions.path(line[-1].name)
    systems = [trained_system(config.train, place).model_copy(update={"name": name}) for name, place in folders.items()]
    settings = RunConfig(
        dataset=held_out.dataset,
        split=held_out.split,
        max_candidates=held_out.max_candidates,
        limit=held_out.limit,
        seed=config.seed,
        k=held_out.k,
        systems=tuple(systems),
    )
    dataset = load_dataset(held_out.dataset, config.seed)
    return run(settings, dataset, folder / "results", cache=cache, command=command)


def _system(training: Training, name: str, folder: Path) -> System:
    """A version as it is served: with its own calibration and blend."""
    system = trained_system(training, folder)
    own = {"blend": None} if isinstance(system, GenrankSystem) else {}
    return system.model_copy(update={"name": name, **own})


def checks(compared: Compared, results: Mapping[str, Any], gate: GateSettings) -> list[Check]:
    """Whether the candidate is no worse than the version that is served, and the first of its line.

    Args:
        compared: ``current`` and perhaps ``first`` against ``candidate``.
        results: What `eval.run.run` returned, for the outcomes.
        gate: The limits.
    """
    found = []
    for pair in compared.pairs:
        one = pair.comparison
        passed = one.low > -gate.margin and pair.verdict != "worse"
        found.append(
            Check(
                f"no worse than the {pair.system_a} version",
                passed,
                f"{pair.metric} {pair.a:.4f} to {pair.b:.4f}, {one.difference:+.4f} ({one.low:+.4f} to "
                f"{one.high:+.4f}, p {pair.p_holm:.4f}) on {pair.queries} queries; the interval must be above "
                f"{-gate.margin:g}",
            )
        )
    counts = {name: results["systems"][name]["counts"] for name in ("current", "candidate")}
    queries = results["counts"]["queries"]
    for outcome in ("repaired", "fallback"):
        was, now = (one.get(outcome, 0) / queries for one in counts.values())
        passed = now <= was + gate.invalid
        found.append(Check(f"no more {outcome} rankings", passed, f"{was:.1%} to {now:.1%} of the rankings"))
    return found


def _decide(
    config: RetuneConfig,
    versions: AdapterVersions,
    folder: Path,
    trained: Path,
    results: Mapping[str, Any],
    command: str,
) -> dict[str, Any]:
    """Promote the candidate or refuse it, and write the report."""
    begun = read_values(folder / ROUND)
    pairs = [f"{name}=candidate" for name in ("current", "first") if name in results["systems"]]
    compared = compare_results(
        folder / "results",
        folder / "results",
        metric=f"nDCG@{config.held_out.k}",
        systems=pairs,
        alpha=config.gate.alpha,
    )
    found = checks(compared, results, config.gate)
    new = str((folder / "new").resolve())
    served = versions.current()
    promoted_before = served is not None and served.training.get("new") == new  # and then killed
    if not promoted_before:
        name = served.name if served else "nothing"
        same = name == begun["parent"]
        found.append(Check("the version that was compared is still served", same, f"{name} is served"))
    passed = all(check.passed for check in found)
    comparison = {
        "checks": [dataclasses.asdict(check) for check in found],
        "pairs": compared.to_dict()["pairs"],
        "held_out": results["dataset"],
    }
    version: Version | None = None
    if passed:
        training = {key: begun[key] for key in ("since", "until", "queries", "data")} | {"new": new}
        training |= {"originals": list(config.replay.originals), "type": config.train.type}
        version = versions.add(trained, parent=begun["parent"], training=training, comparison=comparison)
        gain = compared.pairs[0].comparison.difference
        versions.promote(version.name, why=f"{folder.name}, {gain:+.4f}", instead_of=begun["parent"])
    report = {
        "outcome": "promoted" if passed else "refused",
        "round": folder.name,
        "version": None if version is None else version.name,
        **{key: value for key, value in begun.items() if key != "config"},
        **comparison,
        "command": command,
        **circumstances(),
        "settings": config.model_dump(mode="json"),
    }
    with write_atomically(folder / "report.md") as part:
        part.write_text(page(report), encoding="utf-8")
    _write_json(folder / REPORT, report)
    return report


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    with write_atomically(path) as part:
        part.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
