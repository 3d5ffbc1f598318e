"""What changed between two periods of a feedback log: queries, listings, scores, clicks. A page of HTML, and JSON.

::

    python -m eval.drift LOG --since 2026-06-01 [--until TIME] [--against TIME] [--out FOLDER] [--seed N]

The new period runs from ``--since`` to ``--until`` (now), the old one from ``--against`` (as long before) to
``--since``; times are ISO 8601, UTC unless they say otherwise. ``drift.html`` and ``drift.json`` go into ``--out``
(``runs/drift``). What was found goes to stdout as JSON, without the tables of queries and listings.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eval.report.content import cut
from eval.report.write import environment
from genrank.errors import InputError
from genrank.experiment.program import exit_status
from genrank.experiment.record import commit
from genrank.files import write_atomically
from genrank.search.feedback.log import FeedbackLog
from genrank.text.clean import clean

DRAWS = 200
"""Random divisions of all lists into two periods; a change counts that is greater than in 99 % of them."""

_BINS = 10
_SHOWN = 10
_RANKS = 10
_STYLE = Path(__file__).parent / "report" / "page.css"
_PERIODS = ("old", "new")

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]


def jensen_shannon(old: _Floats | _Ints, new: _Floats | _Ints) -> float:
    """Jensen-Shannon divergence of two distributions in bits, 0 (equal) to 1 (nothing in common).

    ``H((p + q) / 2) - (H(p) + H(q)) / 2`` (Lin 1991, doi 10.1109/18.61115).

    Args:
        old: ``[n]`` counts, at least one over 0.
        new: ``[n]`` counts of the same things.
    """
    p, q = old / old.sum(), new / new.sum()
    found = _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2
    return min(max(found, 0.0), 1.0)


def _entropy(shares: _Floats) -> float:
    some = shares[shares > 0]
    return float(-(some * np.log2(some)).sum())


def stability_index(old: _Floats | _Ints, new: _Floats | _Ints) -> float:
    """Population stability index, ``sum of (q - p) * ln(q / p)``; half a count is added to each bin.

    By custom, less than 0.1 is stable and more than 0.25 a large change.

    Args:
        old: ``[bins]`` counts.
        new: ``[bins]`` counts.
    """
    p, q = (old + 0.5) / (old.sum() + 0.5 * len(old)), (new + 0.5) / (new.sum() + 0.5 * len(new))
    return float(((q - p) * np.log(q / p)).sum())


def _new_share(old: _Ints, new: _Ints) -> float:
    return float(new[old == 0].sum() / new.sum())


def wilson(hits: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share by Wilson's score (1927); 0 to 1 without observations."""
    if not of:
        return 0.0, 1.0
    z = 1.959964
    middle = (hits + z * z / 2) / (of + z * z)
    half = z * math.sqrt(hits * (of - hits) / of + z * z / 4) / (of + z * z)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def drift(log: FeedbackLog, since: datetime, until: datetime, against: datetime, seed: int = 0) -> dict[str, Any]:
    """Compare two periods.

    Args:
        log: The log.
        since: Start of the new period and end of the old one; without a zone, as the others, UTC.
        until: End of the new period.
        against: Start of the old period.
        seed: Seed of the random divisions.

    Returns:
        What ``drift.json`` holds.

    Raises:
        InputError: When the times are not in order, or a period is empty.
        EngineError: As in `FeedbackLog.query`.
    """
    against, since, until = (_utc(time) for time in (against, since, until))
    if not against < since < until:
        raise InputError(f"must be after {against} and before {until}, got {since}", field="since")
    rng = np.random.default_rng(seed)
    times = [since, against, until]
    period = "CASE WHEN time < ? THEN 'old' ELSE 'new' END AS period"
    within = "WHERE time >= ? AND time < ?"
    sizes = _by_period(
        log.query(
            f"SELECT {period}, count(DISTINCT request_id) AS lists, count(*) AS impressions, "
            'count(DISTINCT "user") AS shoppers, count(DISTINCT session) AS sessions, sum(clicks)::BIGINT AS clicks, '
            f"sum(carts)::BIGINT AS carts, sum(purchases)::BIGINT AS purchases FROM feedback {within} GROUP BY period",
            times,
        ).to_pylist()
    )
    for name in _PERIODS:
        if name not in sizes:
            span = (against, since) if name == "old" else (since, until)
            raise InputError(f"nothing was shown from {span[0]} to {span[1]}; choose other periods", field="since")
    texts, queries = _counts(log, f"lower(query) AS name, {period}, count(DISTINCT request_id) AS n", within, times)
    ids, listings = _counts(log, f"listing_id AS name, {period}, count(*) AS n", within, times)
    makers = log.query(
        f"SELECT {period}, model, coalesce(adapter, '') AS adapter, outcome, count(DISTINCT request_id) AS n "
        f"FROM impressions {within} GROUP BY ALL ORDER BY n DESC",
        times,
    ).to_pylist()
    found: dict[str, Any] = {
        "format": 1,
        "commit": commit(),
        "periods": {"old": [str(against), str(since)], "new": [str(since), str(until)]},
        "sizes": sizes,
        "queries": _changes(queries, rng) | {"moved": _moved(texts, queries)},
        "listings": _changes(listings, rng) | {"moved": _moved(ids, listings)},
        "scores": _scores(log, period, within, times, rng),
        "clicks": _clicks(log, period, within, times),
        "makers": [{**row, "share": row["n"] / sizes[row["period"]]["lists"]} for row in makers],
    }
    found["drifted"] = [
        name for name in ("queries", "listings", "scores") if (found[name] or {}).get("drifted", False)
    ] + (["clicks"] if any(row["differs"] for row in found["clicks"]) else [])
    return found


def _utc(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time


def _by_period(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["period"]: {key: value for key, value in row.items() if key != "period"} for row in rows}


def _counts(log: FeedbackLog, columns: str, within: str, times: Sequence[datetime]) -> tuple[list[str], _Ints]:
    """Names, and their counts in each period, ``[2, names]``."""
    rows = log.query(f"SELECT {columns} FROM impressions {within} GROUP BY ALL ORDER BY name", times).to_pylist()
    places: dict[str, int] = {}
    for row in rows:
        places.setdefault(row["name"], len(places))
    counts = np.zeros((2, len(places)), dtype=np.int64)
    for row in rows:
        counts[_PERIODS.index(row["period"]), places[row["name"]]] = row["n"]
    return list(places), counts


def _changes(counts: _Ints, rng: np.random.Generator) -> dict[str, Any]:
    """Divergence and share of new names, each with what chance alone would give."""
    total, size = counts.sum(axis=0), int(counts[0].sum())
    draws = rng.multivariate_hypergeometric(total, size, size=DRAWS, method="marginals")
    chance = [(jensen_shannon(one, total - one), _new_share(one, total - one)) for one in draws]
    most = np.quantile(np.array(chance), 0.99, axis=0)
    found = jensen_shannon(counts[0], counts[1])
    return {
        "divergence": found,
        "divergence_by_chance": float(most[0]),
        "new_share": _new_share(counts[0], counts[1]),
        "new_share_by_chance": float(most[1]),
        "drifted": bool(found > most[0]),
    }


def _moved(names: Sequence[str], counts: _Ints) -> list[dict[str, Any]]:
    """The names whose shares changed most."""
    shares = counts / counts.sum(axis=1, keepdims=True)
    order = np.argsort(-np.abs(shares[1] - shares[0]), kind="stable")[:_SHOWN]
    return [
        {"name": cut(clean(names[i]), 80), "old": float(shares[0, i]), "new": float(shares[1, i])}
        for i in order
        if shares[0, i] != shares[1, i]
    ]


def _scores(
    log: FeedbackLog, period: str, within: str, times: Sequence[datetime], rng: np.random.Generator
) -> dict[str, Any] | None:
    """How the scores are spread; None where a period has none."""
    table = log.query(f"SELECT {period}, score FROM impressions {within} AND score IS NOT NULL", times)
    periods, values = np.array(table["period"].to_pylist()), table["score"].to_numpy()
    parts = [values[periods == name] for name in _PERIODS] if len(values) else [values, values]
    if not all(map(len, parts)):
        return None
    edges = np.unique(np.quantile(parts[0], np.linspace(0, 1, _BINS + 1)[1:-1]))
    bins = np.searchsorted(edges, values, side="right")
    counts = np.array([np.bincount(bins[periods == name], minlength=len(edges) + 1) for name in _PERIODS])
    total = counts.sum(axis=0)
    draws = rng.multivariate_hypergeometric(total, int(counts[0].sum()), size=DRAWS, method="marginals")
    most = float(np.quantile([stability_index(one, total - one) for one in draws], 0.99))
    index = stability_index(counts[0], counts[1])
    quantiles = {
        name: [float(one) for one in np.quantile(part, (0.1, 0.5, 0.9))]
        for name, part in zip(_PERIODS, parts, strict=True)
    }
    return {"index": index, "index_by_chance": most, "quantiles": quantiles, "drifted": index > max(most, 0.1)}


def _clicks(log: FeedbackLog, period: str, within: str, times: Sequence[datetime]) -> list[dict[str, Any]]:
    """Click-through by rank; two rates differ where p is under 0.01 after Bonferroni's correction."""
    rows = log.query(
        f"SELECT rank, {period}, count(*) AS shown, count(*) FILTER (clicks > 0) AS clicked FROM feedback {within} "
        f"AND rank <= {_RANKS} GROUP BY ALL ORDER BY rank",
        times,
    ).to_pylist()
    table: dict[int, dict[str, tuple[int, int]]] = {}
    for row in rows:
        table.setdefault(row["rank"], {})[row["period"]] = row["clicked"], row["shown"]
    found = []
    for rank, cells in table.items():
        counts = {name: cells.get(name, (0, 0)) for name in _PERIODS}
        line: dict[str, Any] = {"rank": rank, "differs": _differ(*counts["old"], *counts["new"]) < 0.01 / len(table)}
        for name, (clicked, shown) in counts.items():
            line[name] = {
                "rate": clicked / shown if shown else None,
                "interval": [*wilson(clicked, shown)],
                "shown": shown,
            }
        found.append(line)
    return found


def _differ(hits: int, of: int, other_hits: int, other_of: int) -> float:
    """Two-sided p of the z-test that two shares are equal."""
    if not of or not other_of or not 0 < hits + other_hits < of + other_of:
        return 1.0
    pooled = (hits + other_hits) / (of + other_of)
    z = (hits / of - other_hits / other_of) / math.sqrt(pooled * (1 - pooled) * (1 / of + 1 / other_of))
    return math.erfc(abs(z) / math.sqrt(2))


def write_drift(found: dict[str, Any], folder: Path) -> Path:
    """Write ``drift.html`` and ``drift.json`` into a folder, which is created if needed.

    Args:
        found: From `drift`.
        folder: The folder.

    Returns:
        Path of the HTML file, which loads nothing from anywhere and runs no script.

    Raises:
        MissingExtraError: When jinja2 is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page = environment(markdown=False).get_template("drift.html.jinja")
    html = page.render(found, style=_STYLE.read_text(encoding="utf-8"))
    for name, text in (("drift.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n"), ("drift.html", html)):
        with write_atomically(folder / name) as part:
            part.write_text(text, encoding="utf-8")
    return folder / "drift.html"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit status: 0, 1 for a failed run, 2 for a usage error.
    """
    parser = argparse.ArgumentParser(prog="python -m eval.drift", description="Compare two periods of a feedback log.")
    parser.add_argument("log", type=Path, help="the log's folder")
    parser.add_argument("--since", type=datetime.fromisoformat, required=True, help="start of the new period")
    parser.add_argument("--until", type=datetime.fromisoformat, help="its end (now)")
    parser.add_argument("--against", type=datetime.fromisoformat, help="start of the old period (as long before)")
    parser.add_argument("--out", type=Path, default=Path("runs/drift"), help="folder of the report (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random divisions (%(default)s)")
    options = parser.parse_args(arguments)
    return exit_status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    if not (options.log / "impressions").is_dir():
        raise InputError(f"{options.log} holds no feedback log", field="log")
    since, until = _utc(options.since), _utc(options.until or datetime.now(UTC))
    against = options.against or since - (until - since)
    found = drift(FeedbackLog(options.log), since, until, against, options.seed)
    path = write_drift(found, options.out)
    for name in ("queries", "listings"):
        del found[name]["moved"]
    print(json.dumps(found | {"report": str(path)}, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    sys.exit(main())
