"""The content of a report, as plain data (JSON types) that the HTML, markdown and JSON files share.

Every text that comes from a dataset, a configuration or a model goes through `genrank.text.clean.clean` and is
cut, so that control, direction and surrogate characters reach none of them. Escaping is left to the templates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.report.results import Paired, ReportedSystem, Results, read_per_query
from genrank.data.dataset import Dataset
from genrank.data.jsonl import read_jsonl
from genrank.data.trec import read_run
from genrank.errors import DataFormatError, InputError
from genrank.experiment.splits import digest
from genrank.text.clean import clean

ALPHA = 0.05
SMALL_GROUP = 10
MAX_PLOTTED = 2_000
SHOWN_QUERIES = 5
SHOWN_ITEMS = 10
_MAX_ROWS = 30
_MAX_TEXT = 2_000


def report_content(
    folder: Path, results: Results, dataset: Dataset | None, system: str | None = None
) -> dict[str, Any]:
    """Everything that a report says.

    Args:
        folder: Holds the runs and the values of each query.
        results: What was read from it.
        dataset: For texts and grades; None leaves them out.
        system: System whose worst and best queries are shown; None takes the best genrank system, else the best one.

    Raises:
        InputError: When there is no such system.
        DataFormatError: When a file of the folder is missing or broken.
    """
    if system is not None and system not in results.systems:
        raise InputError(f"no system {system!r}; the systems are {', '.join(results.systems)}", field="system")
    ranked = sorted(results.systems, key=lambda name: -results.systems[name].metrics[results.primary])
    values = {name: read_per_query(folder, name).values(results.primary) for name in ranked}
    for name, found in values.items():
        if not found:
            path = str(folder / f"{name}.queries.json")
            raise DataFormatError(path, 0, f"a value of {results.primary} for each query", "none")
    reference = results.reference if results.reference in results.systems else None
    focus = system or _focus(results, ranked, reference)
    against = reference if reference != focus else None
    texts = {query.query.query_id: query.query.text for query in dataset.queries} if dataset else {}
    metrics = [results.primary, *(metric for metric in results.metrics if metric != results.primary)]
    content = {
        "format": 1,
        "title": f"{cut(clean(results.dataset.name), 100)}, {results.settings.get('split', 'all')}",
        "complete": results.complete,
        "with_texts": dataset is not None,
        "facts": _facts(results),
        "notes": _notes(results, dataset),
        "summary": _summary(results, ranked, reference),
        "primary": results.primary,
        "metrics": metrics,
        "floor": {name: floor.model_dump() for name, floor in results.random_floor.items()},
        "reference": reference,
        "systems": [
            _system(name, results, metrics, is_highest=name == ranked[0], reference=reference) for name in ranked
        ],
        "comparisons": [_comparison(paired) for paired in _in_order(results, ranked)],
        "slices": _slices(results, ranked),
        "sections": [
            _section(title, {name: getattr(results.systems[name], title.lower()) for name in ranked})
            for title in ("Calibration", "Clicks", "Diversity", "Exposure")
            if any(getattr(results.systems[name], title.lower()) for name in ranked)
        ],
        "model": [_model(name, results.systems[name]) for name in ranked if results.systems[name].counts],
        "per_query": _per_query(values, texts),
        "examples": _examples(folder, values, focus, against, dataset, texts, results.dataset.gains)
        if ranked
        else None,
        "settings": [("run", _pairs(results.settings))]
        + [
            (name, _pairs(system.settings | system.provenance | ({"counted": system.notes} if system.notes else {})))
            for name, system in results.systems.items()
        ],
        "versions": _pairs(results.versions),
    }
    tidied: dict[str, Any] = tidy(content)
    return tidied


def cut(text: str, most: int) -> str:
    """A text's first `most` characters, with an ellipsis for the rest."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def tidy(value: Any) -> Any:
    """JSON types with every text cleaned and cut."""
    match value:
        case str():
            return cut(clean(value), _MAX_TEXT)
        case Mapping():
            return {tidy(str(key)): tidy(inner) for key, inner in value.items()}
        case list() | tuple():
            return [tidy(inner) for inner in value]
    return value


def is_significant(paired: Paired) -> bool:
    """Whether a difference survives Holm's correction at 0.05."""
    return paired.p_holm is not None and paired.p_holm < ALPHA


def _focus(results: Results, ranked: Sequence[str], reference: str | None) -> str:
    others = [name for name in ranked if name != reference] or list(ranked)
    rerankers = [name for name in others if results.systems[name].type in ("genrank", "cascade")]
    return next(iter(rerankers or others), "")


def _facts(results: Results) -> list[tuple[str, str]]:
    data, counts, settings = results.dataset, results.counts, results.settings
    most = settings.get("max_candidates")
    facts = [
        ("Dataset", f"{cut(data.name, 100)}, split {settings.get('split', 'all')}"),
        ("Source", data.source),
        ("Queries", f"{counts.queries:,}"),
        ("Candidates", f"{counts.candidates:,}" + (f", at most {most} a query" if most else "")),
        ("Candidates' order", data.first_stage),
        ("Date", results.started.replace("T", " ").replace("+00:00", " UTC")),
        ("Commit", results.commit),
        ("Hardware", results.hardware),
        ("Command", results.command),
        ("Seed", str(settings.get("seed", ""))),
        ("Fingerprint", data.fingerprint),
    ]
    return [(name, cut(value, 300)) for name, value in facts if value]


def _notes(results: Results, dataset: Dataset | None) -> list[str]:
    data, counts = results.dataset, results.counts
    labels = {str(grade): meaning.label for grade, meaning in dataset.grades.items()} if dataset else {}
    gains = [
        f"{grade} = {gain:.4g}" + (f" ({labels[grade]})" if grade in labels else "")
        for grade, gain in data.gains.items()
    ]
    share = counts.unjudged / max(counts.candidates, 1)
    notes = [
        f"Gain by grade: {'; '.join(gains)}. nDCG's ideal order is the best order of the query's candidates.",
        "Values are means over queries. The 95 % intervals are bootstrap intervals over queries.",
        f"{counts.unjudged:,} of {counts.candidates:,} candidates ({share:.1%}) are unjudged; they count as gain 0.",
        "Equal scores keep the candidates' order, those of a run from elsewhere are ordered by falling listing id.",
        "“Random, expected” is the exact expectation over all random orders; ± is the standard deviation of one.",
    ]
    if data.relevant is not None:
        notes.insert(1, f"MRR, MAP, P and R count a listing as relevant from grade {data.relevant}.")
    if counts.queries_without_gain:
        notes.append(f"{counts.queries_without_gain:,} queries have no candidate with a gain: nDCG is 0 in any order.")
    if counts.queries_without_relevant:
        notes.append(f"{counts.queries_without_relevant:,} queries have no relevant candidate: MRR is 0 in any order.")
    return notes


def _summary(results: Results, ranked: Sequence[str], reference: str | None) -> list[str]:
    if not ranked:
        return ["No system was measured."]
    best, metric = ranked[0], results.primary
    said = [f"{best} is highest: {metric} {_estimate_text(results.systems[best], metric)}."]
    floor = results.random_floor.get(metric)
    if floor:
        said.append(f"Random orders are expected to reach {floor.mean:.3f}.")
    if reference is None:
        return said
    primary = [paired for paired in results.comparisons if paired.metric == metric]
    for better, word in ((True, "better"), (False, "worse")):
        names = [p.system for p in primary if is_significant(p) and (p.difference > 0) is better]
        if names:
            verb = "is" if len(names) == 1 else "are"
            said.append(f"Significantly {word} than {reference} {verb}: {', '.join(names)}.")
    if primary and not any(map(is_significant, primary)):
        said.append(f"No system differs significantly from {reference}.")
    return said


def _estimate_text(system: ReportedSystem, metric: str) -> str:
    text = f"{system.metrics[metric]:.3f}"
    if interval := system.intervals.get(metric):
        text += f" [{interval[0]:.3f}, {interval[1]:.3f}]"
    return text


def _in_order(results: Results, ranked: Sequence[str]) -> list[Paired]:
    """The comparisons of systems that are here, the primary metric first, then as the systems are ranked."""
    known = [p for p in results.comparisons if p.system in results.systems and p.reference == results.reference]
    return sorted(known, key=lambda p: (p.metric != results.primary, p.metric, ranked.index(p.system)))


def _comparison(paired: Paired) -> dict[str, Any]:
    return {**paired.model_dump(), "significant": is_significant(paired)}


def _system(
    name: str, results: Results, metrics: Sequence[str], *, is_highest: bool, reference: str | None
) -> dict[str, Any]:
    system = results.systems[name]
    marks = {
        p.metric: "▲" if p.difference > 0 else "▼"
        for p in results.comparisons
        if p.system == name and is_significant(p)
    }
    timed = system.seconds > 0 and system.queries_per_second > 0
    return {
        "name": name,
        "type": system.type,
        "highest": is_highest,
        "reference": name == reference,
        "values": [
            {
                "metric": metric,
                "mean": system.metrics[metric],
                "low": system.intervals[metric][0] if metric in system.intervals else None,
                "high": system.intervals[metric][1] if metric in system.intervals else None,
                "mark": marks.get(metric, ""),
            }
            for metric in metrics
        ],
        "milliseconds": 1000 / system.queries_per_second if timed else None,
        "load_seconds": system.load_seconds,
        "cached": system.cached,
        "tau": system.order.tau,
        "mean_rank_by_place": system.order.mean_rank_by_place,
    }


def _slices(results: Results, ranked: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "slice": title,
            "groups": [
                {
                    "group": group,
                    "size": size,
                    "small": size < SMALL_GROUP,
                    "values": [
                        {**found.model_dump(), "mark": ""}
                        if (found := results.systems[name].slices.get(title, {}).get(group))
                        else None
                        for name in ranked
                    ],
                }
                for group, size in groups.items()
            ],
        }
        for title, groups in results.slices.items()
        if groups
    ]


def _section(title: str, found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Tables of nested measures: a group for each that holds others, a row a measure, a column a system."""
    systems = {name: values for name, values in found.items() if values}
    flat: dict[str, dict[str, dict[str, Any]]] = {}
    for name, values in systems.items():
        for key, value in values.items():
            group = key if isinstance(value, Mapping) else ""
            for path, leaf in flatten(value) if group else [(key, value)]:
                flat.setdefault(group, {}).setdefault(path, {})[name] = leaf
    groups = [
        {
            "group": group,
            "rows": [
                {"name": path.replace(".", ": ", 1), "values": [row.get(name) for name in systems]}
                for path, row in list(rows.items())[:_MAX_ROWS]
            ],
        }
        for group, rows in flat.items()
    ]
    left_out = sum(max(len(rows) - _MAX_ROWS, 0) for rows in flat.values())
    return {"title": title, "systems": list(systems), "groups": groups, "left_out": left_out}


def flatten(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested objects, with their dotted paths.

    Yields:
        Path and value; lists and scalars are leaves.
    """
    if not isinstance(values, Mapping):
        yield path, values
        return
    for key, inner in values.items():
        yield from flatten(inner, f"{path}.{key}" if path else str(key))


def _model(name: str, system: ReportedSystem) -> dict[str, Any]:
    names = (
        "model",
        "repaired",
        "fallback",
        "repairs",
        "windows",
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
    )
    return {
        "name": name,
        "counts": {key: system.counts.get(key) for key in names},
        "cuts": list((system.counts.get("cuts") or {}).items()),
        "whys": list((system.counts.get("whys") or {}).items())[:_MAX_ROWS],
    }


def _pairs(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(key, "" if value is None else str(value)) for key, value in flatten(values)]


def _per_query(values: Mapping[str, Mapping[str, float]], texts: Mapping[str, str]) -> dict[str, Any]:
    """Each system's values for the queries that all have; of very many, a fixed sample."""
    common = [query for query in next(iter(values.values()), {}) if all(query in found for found in values.values())]
    plotted = common
    if len(common) > MAX_PLOTTED:
        chosen = set(sorted(common, key=digest)[:MAX_PLOTTED])
        plotted = [query for query in common if query in chosen]
    return {
        "total": len(common),
        "queries": plotted,
        "texts": [cut(clean(texts.get(query, "")), 80) for query in plotted],
        "values": [[round(found[query], 4) for query in plotted] for found in values.values()],
    }


def _examples(
    folder: Path,
    values: Mapping[str, Mapping[str, float]],
    focus: str,
    against: str | None,
    dataset: Dataset | None,
    texts: Mapping[str, str],
    gains: Mapping[str, float],
) -> dict[str, Any]:
    most = max([*gains.values(), 1e-9])
    own = values[focus]
    other = values[against] if against is not None else {}
    gap = {query: own[query] - other[query] for query in own if query in other} if other else dict(own)
    order = sorted(gap, key=lambda query: (gap[query], query))
    shown = min(SHOWN_QUERIES, len(order) // 2) or len(order)
    worst, best = order[:shown], order[::-1][:shown]
    if against is not None:  # a query where both are equal is neither
        worst, best = [q for q in worst if gap[q] < 0], [q for q in best if gap[q] > 0]
    names = [focus] if against is None else [focus, against]
    runs = {name: read_run(folder / f"{name}.trec") for name in names}
    reasons = {name: _reasons(folder / f"{name}.jsonl", {*worst, *best}) for name in names}
    ranks = {
        name: {q: {key: i for i, key in enumerate(run.get(q, {}), 1)} for q in (*worst, *best)}
        for name, run in runs.items()
    }

    def item(name: str, query: str, listing_id: str, rank: int) -> dict[str, Any]:
        elsewhere = next((ranks[one][query].get(listing_id) for one in names if one != name), None)
        listing = dataset.listings.get(listing_id) if dataset else None
        grade = dataset.qrels.get(query, {}).get(listing_id) if dataset else None
        return {
            "listing_id": listing_id,
            "rank": rank,
            "other_rank": elsewhere,
            "title": cut(clean(listing.title), 160) if listing else "",
            "grade": grade,
            "worth": gains.get(str(grade), 0.0) / most,
            "reason": cut(clean(reasons[name].get((query, listing_id), "")), 300),
        }

    def example(query: str) -> dict[str, Any]:
        return {
            "query_id": query,
            "text": cut(clean(texts.get(query, "")), 200),
            "value": own[query],
            "reference_value": other.get(query),
            "difference": gap[query] if other else None,
            "orders": [
                {
                    "system": name,
                    "candidates": len(ranks[name][query]),
                    "items": [
                        item(name, query, key, rank) for key, rank in list(ranks[name][query].items())[:SHOWN_ITEMS]
                    ],
                }
                for name in names
            ],
        }

    return {
        "system": focus,
        "reference": against,
        "groups": [
            {"title": "Worst queries", "queries": [example(query) for query in worst]},
            {"title": "Best queries", "queries": [example(query) for query in best]},
        ],
    }


def _reasons(path: Path, queries: set[str]) -> dict[tuple[str, str], str]:
    """Reasons by query and listing, of a system that wrote rankings; empty for others."""
    if not path.exists():
        return {}
    found: dict[tuple[str, str], str] = {}
    for number, line in read_jsonl(path):
        if isinstance(line, DataFormatError):
            raise line
        try:
            if line["query_id"] in queries:
                found |= {
                    (line["query_id"], i["listing_id"]): str(i["reason"]) for i in line["items"] if i.get("reason")
                }
        except (TypeError, KeyError, AttributeError):
            raise DataFormatError(str(path), number, "a ranking line", str(line)[:80]) from None
    return found
