"""What a soak found, as JSON and as a page."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from eval.soak.answers import BY_THE_MODEL, Broken
from eval.soak.run import RECOVERS_WITHIN, Seen
from genrank.experiment.record import circumstances

GROWTH = 0.05
"""How much more memory the gateway may have in the last fifth of the time than in the second one."""

_JUDGED_FROM = 300.0  # seconds; until then a process still grows by what it loads


def report(seen: Seen, command: str) -> dict[str, Any]:
    """What ``soak.json`` holds; a growth of memory, or too few answers of the model, join `seen`'s broken promises."""
    memory = _memory(seen)
    tally = seen.tally
    shares = _shares(seen)
    return {
        "format": 1,
        "command": command,
        **circumstances(),
        "settings": dataclasses.asdict(seen.settings),
        "seconds": round(seen.seconds, 1),
        "requests": sum(tally.outcomes.values()),
        "outcomes": dict(tally.outcomes.most_common()),
        "causes": {cause or "none": count for cause, count in tally.causes.most_common()},
        "shares": shares,
        "clients": dict(tally.clients.most_common()),
        "faults": dict(seen.faults.most_common()),
        "asked_the_engine": dict(seen.asked.most_common()),
        "latency_s": {tier: _percentiles(seconds) for tier, seconds in sorted(tally.seconds.items())},
        "recovery_s": {fault: [round(one, 2) for one in took] for fault, took in sorted(seen.recoveries.items())},
        "memory": memory,
        "open_files": {"first": seen.files[0], "most": max(seen.files), "last": seen.files[-1]} if seen.files else None,
        "held_up_s": {"all": round(seen.held_up, 3), "longest": round(seen.longest, 3)},
        "broken": {
            promise: {"times": times, "examples": tally.examples[promise]} for promise, times in tally.broken.items()
        },
        "kept": not tally.broken,
    }


def _shares(seen: Seen) -> dict[str, float]:
    """The share of each tier among the new rankings, 0 to 1; those that the gateway had kept do not count."""
    counts = {tier: len(seconds) for tier, seconds in sorted(seen.tally.seconds.items())}
    total = sum(counts.values())
    models = sum(counts.get(tier, 0) for tier in BY_THE_MODEL)
    least = seen.settings.least_model
    if models < least * total:
        words = f"{models} of {total} new rankings were the model's, at least {least:.0%} must be: "
        words += "give it more time with fewer --clients, fewer --candidates or a longer --pause"
        seen.tally.break_(Broken("model", words))
    return {tier: round(count / total, 4) for tier, count in counts.items()}


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    found = sorted(seconds)
    at = {"median": 0.5, "p95": 0.95, "p99": 0.99, "most": 1.0}
    return {name: round(found[min(len(found) - 1, int(share * len(found)))], 3) for name, share in at.items()}


def _memory(seen: Seen) -> dict[str, Any] | None:
    """The gateway's memory over time; None where it cannot be read."""
    values = [mib for _, mib in seen.memory]
    if len(values) < 5:
        return None
    fifth = len(values) // 5
    second, last = statistics.median(values[fifth : 2 * fifth]), statistics.median(values[-fifth:])
    judged = seen.seconds >= _JUDGED_FROM
    growth = last / second - 1
    if judged and growth > GROWTH:
        words = f"{second:.0f} MiB in the second fifth of the time, {last:.0f} MiB in the last: {growth:+.1%}"
        seen.tally.break_(Broken("memory", words))
    return {
        "second_fifth_mib": round(second, 1),
        "last_fifth_mib": round(last, 1),
        "growth": round(growth, 4),
        "judged": judged,
        "samples": [[round(at, 1), round(mib, 1)] for at, mib in seen.memory],
    }


def page(found: dict[str, Any]) -> str:
    """A report in Markdown."""
    settings, held_up = found["settings"], found["held_up_s"]
    lines = [
        f"# Soak: {'every promise was kept' if found['kept'] else 'promises were broken'}",
        "",
        (
            f"`{found['command']}`, commit {found['commit'][:7] or 'unknown'}, {found['hardware']}; "
            f"{found['seconds']:.0f} s, {found['requests']} requests, {settings['clients']} steady clients, "
            f"at most {settings['candidates']} candidates and {settings['pause']:g} s of pause, "
            f"deadline {settings['deadline']:g} s, engine {settings['engine']}, seed {settings['seed']}."
        ),
        "",
        *_table(("outcome", "requests"), found["outcomes"].items()),
        *_table(("cause", "rankings"), found["causes"].items()),
        *_table(("tier", "share of the new rankings"), ((tier, f"{one:.1%}") for tier, one in found["shares"].items())),
        *_table(("client", "requests"), found["clients"].items()),
        *_table(("fault", "times"), found["faults"].items()),
        *_table(("what met a request of the gateway to its engine", "times"), found["asked_the_engine"].items()),
        *_table(
            ("new rankings, seconds", "median", "p95", "p99", "most"),
            ((tier, *(f"{one:.2f}" for one in row.values())) for tier, row in found["latency_s"].items()),
        ),
        *_table(
            ("the model ranks again after", "times", "median, s", f"longest, s (at most {RECOVERS_WITHIN:g})"),
            (
                (fault, len(took), f"{statistics.median(took):.2f}", f"{max(took):.2f}")
                for fault, took in found["recovery_s"].items()
            ),
        ),
    ]
    if memory := found["memory"]:
        judged = f"may grow by {GROWTH:.0%}" if memory["judged"] else "too short a run to judge"
        lines.append(
            f"Memory of the gateway: {memory['second_fifth_mib']:.0f} MiB in the second fifth of the time, "
            f"{memory['last_fifth_mib']:.0f} MiB in the last ({memory['growth']:+.1%}; {judged})."
        )
    if files := found["open_files"]:
        lines.append(f"Its open files: {files['first']} at first, {files['most']} at most, {files['last']} at last.")
    lines.append(
        f"Times at which this program itself stood still, not counted above: {held_up['all']:.1f} s in all, at most "
        f"{held_up['longest']:.2f} s at a time."
    )
    for promise, one in found["broken"].items():
        lines += ["", f"## Broken {one['times']} times: {promise}", "", *(f"- {words}" for words in one["examples"])]
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Any) -> list[str]:
    marks = ["|" + "---|" * len(head)]
    body = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return ["| " + " | ".join(head) + " |", *marks, *body, ""] if body else []
