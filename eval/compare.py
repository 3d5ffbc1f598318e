"""Two results: what changed between them, and whether it is noise.

::

    python -m eval.compare A B [--metric nDCG@10] [--systems x,old=new] [--alpha 0.05] [--json] [--force]

A and B are results folders (or their ``results.json``); A is the reference, B the new one. Systems of the same name
are paired, on the queries that both have. Exit status 1 means only that a system of B is significantly worse in the
metric that decides (`--metric`, else the primary one); every error is status 2.

The p-values are those of the randomisation test, corrected by Holm over the compared systems of each metric.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eval.report.content import cut, flatten
from eval.report.results import Results, read_per_query, read_results, results_folder
from eval.significance import Comparison, compare, holm
from genrank.data.trec import Run, read_run
from genrank.errors import InputError
from genrank.experiment.program import exit_status, say
from genrank.progress import track
from genrank.text.clean import clean

Verdict = Literal["better", "worse", "noise"]


@dataclass(frozen=True, slots=True)
class Change:
    """A setting, version or fact in which two results differ; None where one lacks it."""

    what: str
    a: Any
    b: Any


@dataclass(frozen=True, slots=True)
class Pair:
    """A system of A, a system of B and a metric.

    Attributes:
        system_a: Name in A.
        system_b: Name in B.
        metric: The metric that the values measure.
        queries: Queries that both have.
        a: Mean in A over these.
        b: Mean in B over these.
        comparison: B against A: the difference is ``b - a``.
        p_holm: p of the randomisation test, corrected over the pairs of this metric.
        verdict: ``better`` or ``worse`` when that is below alpha, else ``noise``.
        identical: Whether all orders are the same.
    """

    system_a: str
    system_b: str
    metric: str
    queries: int
    a: float
    b: float
    comparison: Comparison
    p_holm: float
    verdict: Verdict
    identical: bool


@dataclass(frozen=True)
class Compared:
    """Two results, compared.

    Attributes:
        decides: The metric that decides.
        alpha: Level of significance.
        queries: How many are ``common``, ``only_a`` and ``only_b``.
        doubts: Why the two may not be comparable.
        changes: What the two differ in.
        only_a: Systems that were not compared, of A.
        only_b: The same of B.
        pairs: The deciding metric first.
    """

    decides: str
    alpha: float
    queries: Mapping[str, int]
    doubts: tuple[str, ...]
    changes: tuple[Change, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    pairs: tuple[Pair, ...]

    @property
    def worse(self) -> tuple[str, ...]:
        """Systems of B that are significantly worse in the metric that decides."""
        return tuple(p.system_b for p in self.pairs if p.metric == self.decides and p.verdict == "worse")

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON types."""
        return {**dataclasses.asdict(self), "worse": list(self.worse)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 1 when a system is significantly worse, 2 when something is wrong.
    """
    parser = argparse.ArgumentParser(prog="python -m eval.compare", description="Compare two results of eval.run.")
    parser.add_argument("a", type=Path, help="results folder of the reference")
    parser.add_argument("b", type=Path, help="results folder of the new result")
    parser.add_argument("--metric", help="compare only this metric, and let it decide (all; the primary one decides)")
    parser.add_argument("--systems", help="x,old=new: pair x with x and A's old with B's new (all of the same name)")
    parser.add_argument("--alpha", type=float, default=0.05, help="level of significance (0.05)")
    parser.add_argument("--json", action="store_true", help="JSON instead of tables")
    parser.add_argument("--force", action="store_true", help="compare even if data, gains or candidates differ")
    options = parser.parse_args(arguments)
    worse: list[str] = []

    def body() -> None:
        compared = compare_results(
            options.a,
            options.b,
            metric=options.metric,
            systems=options.systems.split(",") if options.systems is not None else None,
            alpha=options.alpha,
            force=options.force,
        )
        if options.json:
            print(json.dumps(compared.to_dict(), indent=2, ensure_ascii=False, allow_nan=False))
        else:
            print_comparison(compared, Console())
        worse.extend(compared.worse)

    status = exit_status(body)
    if status:
        return 2 if status == 1 else status
    if worse:
        say(f"significantly worse in {options.metric or 'the primary metric'}: {', '.join(map(clean, worse))}")
    return int(bool(worse))


def compare_results(
    a: Path,
    b: Path,
    *,
    metric: str | None = None,
    systems: Sequence[str] | None = None,
    alpha: float = 0.05,
    force: bool = False,
) -> Compared:
    """Compare two results.

    Args:
        a: Results folder, or its ``results.json``: the reference.
        b: The same: the new result.
        metric: The only metric that is compared; None compares all that both have, and the primary one decides.
        systems: Names, or ``name in A=name in B``; None pairs all of the same name.
        alpha: Level of significance, between 0 and 1.
        force: Compare even if the two were not measured on the same data, gains or candidates.

    Raises:
        InputError: When there are no such results, systems, metric or common queries, or the two cannot be compared.
        DataFormatError: When a file is broken.
    """
    if not 0 < alpha < 1:
        raise InputError(f"must lie between 0 and 1, got {alpha}", field="alpha")
    old, new = read_results(a), read_results(b)
    folders = results_folder(a), results_folder(b)
    names = _pairs(old, new, systems)
    metrics, decides = _metrics(old, new, metric)
    values = [(read_per_query(folders[0], x), read_per_query(folders[1], y)) for x, y in names]
    runs = [(read_run(folders[0] / f"{x}.trec"), read_run(folders[1] / f"{y}.trec")) for x, y in names]
    had = [{query for pair in values for query in pair[side].queries} for side in (0, 1)]
    shared = set.intersection(*(set(one.queries) for pair in values for one in pair))
    common = [query for query in values[0][0].queries if query in shared]
    if not common:
        raise InputError(f"{a} and {b} have no query in common; nothing to compare")
    troubles = _troubles(old, new, runs, common)
    doubts = []
    if old.dataset.fingerprint != new.dataset.fingerprint:
        if had[0] == had[1]:
            troubles.append("the fingerprints of queries, candidates and judgements differ")
        else:
            doubts.append("the queries differ, so the fingerprints cannot tell whether the judgements are the same")
    if troubles and not force:
        raise InputError(f"not comparable: {'; '.join(troubles)}; --force compares the common queries all the same")
    identical = [all(list(x.get(q, {})) == list(y.get(q, {})) for q in common) for x, y in runs]
    pairs: list[Pair] = []
    for name in track(metrics, "comparing", total=len(metrics)):
        found = []
        for (x, y), (one, other) in zip(names, values, strict=True):
            for system, side in ((x, one), (y, other)):
                if name not in side.metrics:
                    raise InputError(f"{system}.queries.json holds no values of {name}", field="metric")
            before, after = one.values(name), other.values(name)
            found.append((x, y, [before[q] for q in common], [after[q] for q in common]))
        comparisons = [compare(now, was) for _, _, was, now in found]
        corrected = holm([comparison.p_randomisation for comparison in comparisons])
        for (x, y, was, now), comparison, p, same in zip(found, comparisons, corrected, identical, strict=True):
            verdict: Verdict = "noise" if p >= alpha else "better" if comparison.difference > 0 else "worse"
            mean_a, mean_b = math.fsum(was) / len(was), math.fsum(now) / len(now)
            pairs.append(Pair(x, y, name, len(common), mean_a, mean_b, comparison, p, verdict, same))
    return Compared(
        decides=decides,
        alpha=alpha,
        queries={"common": len(common), "only_a": len(had[0] - had[1]), "only_b": len(had[1] - had[0])},
        doubts=(*troubles, *doubts),
        changes=tuple(_changes(old, new, names)),
        only_a=tuple(name for name in old.systems if name not in {x for x, _ in names}),
        only_b=tuple(name for name in new.systems if name not in {y for _, y in names}),
        pairs=tuple(pairs),
    )


def _pairs(old: Results, new: Results, systems: Sequence[str] | None) -> list[tuple[str, str]]:
    if systems is None:
        names = [(name, name) for name in old.systems if name in new.systems]
        if not names:
            known = f"A has {', '.join(old.systems) or 'none'}, B has {', '.join(new.systems) or 'none'}"
            raise InputError(f"no system has the same name in both ({known}); pair them: old=new", field="systems")
        return names
    names = []
    for text in systems:
        x, _, y = text.partition("=")
        pair = x.strip(), y.strip() or x.strip()
        for name, results, side in zip(pair, (old, new), "AB", strict=True):
            if name not in results.systems:
                known = ", ".join(results.systems) or "none"
                raise InputError(f"{side} has no system {name!r}; it has {known}", field="systems")
        if pair in names:
            raise InputError(f"{text!r} is named twice", field="systems")
        names.append(pair)
    return names


def _metrics(old: Results, new: Results, metric: str | None) -> tuple[list[str], str]:
    common = [name for name in old.metrics if name in new.metrics]
    if metric is not None:
        if metric not in common:
            raise InputError(f"{metric!r} is not in both; they have {', '.join(common) or 'none'}", field="metric")
        return [metric], metric
    if old.primary != new.primary:
        raise InputError(f"A is decided by {old.primary}, B by {new.primary}; say which counts", field="metric")
    return [old.primary, *(name for name in common if name != old.primary)], old.primary


def _troubles(old: Results, new: Results, runs: Sequence[tuple[Run, Run]], common: Sequence[str]) -> list[str]:
    troubles = []
    for key in ("gains", "relevant"):
        was, now = getattr(old.dataset, key), getattr(new.dataset, key)
        if was != now:
            troubles.append(f"the datasets' {key} differ: {was} and {now}")
    differing = sum(any(x.get(q, {}).keys() != y.get(q, {}).keys() for x, y in runs) for q in common)
    if differing:
        troubles.append(f"the candidates differ on {differing} of {len(common)} common queries")
    return troubles


def _changes(old: Results, new: Results, names: Sequence[tuple[str, str]]) -> list[Change]:
    changes = []
    for part in ("commit", "hardware", "versions", "dataset", "settings", "counts", "reference"):
        was, now = (dict(flatten(_plain(getattr(results, part)), part)) for results in (old, new))
        changes += _differences("", was, now)
    for x, y in names:
        label = x if x == y else f"{x} = {y}"
        for part in ("type", "settings", "provenance"):
            was, now = (
                dict(flatten(_plain(getattr(results.systems[name], part)), part))
                for results, name in ((old, x), (new, y))
            )
            changes += _differences(f"{label}: ", was, now)
    return changes


def _plain(value: Any) -> Any:
    return value.model_dump() if hasattr(value, "model_dump") else value


def _differences(label: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    keys = dict.fromkeys([*was, *now])
    return [Change(label + key, was.get(key), now.get(key)) for key in keys if was.get(key) != now.get(key)]


def print_comparison(compared: Compared, console: Console) -> None:
    """Print what changed and the verdicts.

    Args:
        compared: What `compare_results` returned.
        console: Where to; if it is not a terminal, lines may have any length.
    """
    if not console.is_terminal:
        console.width = max(console.width, 160)
    changes = Table(title="what changed", title_justify="left")
    for name in ("", "A", "B"):
        changes.add_column(name, overflow="fold")
    for change in compared.changes:
        changes.add_row(*(_text(value) for value in (change.what, change.a, change.b)))
    if compared.changes:
        console.print(changes)
    else:
        console.print("nothing changed in settings, versions, data or hardware")
    verdicts = Table(title="B against A", title_justify="left")
    verdicts.add_column("system", overflow="fold")
    verdicts.add_column("metric", no_wrap=True)
    for name in ("A", "B", "difference", "95 % interval", "p", "p, Holm", "win/tie/loss"):
        verdicts.add_column(name, justify="right", no_wrap=True)
    verdicts.add_column("verdict", no_wrap=True)
    for place, pair in enumerate(compared.pairs):
        if place and pair.metric != compared.pairs[place - 1].metric:
            verdicts.add_section()
        found = pair.comparison
        label = pair.system_a if pair.system_a == pair.system_b else f"{pair.system_a} = {pair.system_b}"
        verdicts.add_row(
            _text(label),
            _text(pair.metric),
            f"{pair.a:.4f}",
            f"{pair.b:.4f}",
            f"{found.difference:+.4f}",
            f"{found.low:+.4f} to {found.high:+.4f}",
            f"{found.p_randomisation:.4f}",
            f"{pair.p_holm:.4f}",
            f"{found.wins}/{found.ties}/{found.losses}",
            f"{pair.verdict}{', identical orders' if pair.identical else ''}",
        )
    console.print(verdicts)
    counts = compared.queries
    lines = [
        f"{counts['common']} common queries; {counts['only_a']} only in A and {counts['only_b']} only in B left out",
        f"{compared.decides} decides; significant below {compared.alpha:g} after Holm's correction over its systems",
    ]
    lines += [
        f"only in {side}: {', '.join(only)}" for side, only in (("A", compared.only_a), ("B", compared.only_b)) if only
    ]
    lines += [f"doubtful: {doubt}" for doubt in compared.doubts]
    for line in lines:
        console.print(_text(line), soft_wrap=True)


def _text(value: Any) -> Text:
    """Any value as one line of text, without markup."""
    return Text("–" if value is None or value == "" else cut(clean(str(value)), 200))


if __name__ == "__main__":
    sys.exit(main())
