"""A round's report as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def page(report: Mapping[str, Any]) -> str:
    """The report of one round, for people.

    Args:
        report: What `eval.retune.rounds.retune` returns.
    """
    verdict = f"{report['version']} is served now" if report["version"] else f"{report['parent']} is still served"
    queries = report["queries"]
    lines = [
        f"# {report['round']}: {report['outcome']}",
        "",
        f"{verdict}. Feedback from {report['since']} to {report['until']}, UTC: {queries['feedback']} queries.",
        f"Replayed: {queries['rounds']} queries of earlier rounds and {queries['originals']} of other datasets.",
        "",
        "| check | | figures |",
        "|---|---|---|",
        *(f"| {one['name']} | {'yes' if one['passed'] else '**no**'} | {one['words']} |" for one in report["checks"]),
        "",
        "Shoppers look at rank 1, 2, 3 ... with the chances "
        + ", ".join(f"{value:.2f}" for value in report["propensities"][:10])
        + ", relative to rank 1.",
        "",
        f"`{report['command']}`, commit {report['commit'] or 'unknown'}, {report['hardware']}.",
    ]
    return "\n".join(lines) + "\n"
