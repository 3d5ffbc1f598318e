"""A synthetic results folder, as `eval.run` writes it, for the tests of its readers."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genrank.data.dataset import Dataset, DatasetQuery, Grade
from genrank.data.jsonl import write_rankings
from genrank.data.trec import write_run
from genrank.types import Listing, Provenance, Query, RankedItem, Ranking, Tokens

PRIMARY = "nDCG@10"
METRICS = ("nDCG@5", PRIMARY, "nDCG@20", "nDCG-linear@10", "nDCG-exponential@10", "MRR", "MAP", "P@10", "R@10")


def make_dataset(queries: int = 12, candidates: int = 20) -> Dataset:
    """A made-up dataset; the last candidate of each query is unjudged."""
    listings = {
        f"l{i}": Listing(f"l{i}", f"{('oak', 'steel', 'glass')[i % 3]} table no. {i}") for i in range(candidates)
    }
    generator = random.Random(7)
    ids = list(listings)
    return Dataset(
        name="made up",
        source="made up for a test",
        grades={0: Grade("no", 0.0), 1: Grade("some", 1.0), 2: Grade("all", 3.0)},
        listings=listings,
        queries=[DatasetQuery(Query(f"table for room {i}", f"q{i}"), "test") for i in range(queries)],
        qrels={f"q{i}": {key: generator.choice((0, 0, 1, 2)) for key in ids[:-1]} for i in range(queries)},
    )


def write_results(
    folder: Path,
    dataset: Dataset,
    systems: Mapping[str, float],
    *,
    reference: str | None = None,
    rerankers: Sequence[str] = (),
    noise: float = 0.1,
    changes: Mapping[str, Any] | None = None,
    reason: str = "It is made of oak.",
) -> Path:
    """Write a results folder whose systems have about the given nDCG@10.

    Args:
        folder: The folder.
        dataset: Gives queries and listings.
        systems: The middle of each system's values.
        reference: The system that others are compared with.
        rerankers: Which systems are of type genrank.
        noise: Standard deviation of the values over queries.
        changes: Top-level keys of results.json to set.
        reason: What the rerankers say of their first items.
    """
    folder.mkdir(parents=True, exist_ok=True)
    queries = [query.query.query_id for query in dataset.queries]
    ids = list(dataset.listings)
    results: dict[str, Any] = {
        "format": 2,
        "complete": True,
        "command": "python -m eval.run --config eval/configs/made-up.yaml",
        "started": "2026-05-01T10:00:00+00:00",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "hardware": "A processor with a long name @ 2.70GHz, 2 cores",
        "versions": {"python": "3.11.2", "genrank": "0.1.0", "ranx": "0.3.21"},
        "dataset": {
            "name": dataset.name,
            "source": dataset.source,
            "gains": {str(grade): meaning.gain for grade, meaning in dataset.grades.items()},
            "relevant": 2,
            "fingerprint": "0123456789abcdef",
            "first_stage": "bm25",
        },
        "settings": {"dataset": "made-up", "split": "test", "max_candidates": len(ids), "seed": 0, "cutoffs": [5, 10]},
        "metrics": list(METRICS),
        "primary": PRIMARY,
        "counts": {"queries": len(queries), "candidates": len(queries) * len(ids), "unjudged": len(queries)},
        "random_floor": {metric: {"mean": 0.45, "deviation": 0.01} for metric in METRICS},
        "slices": {"query length": {"1-2 words": 4, "3-4 words": len(queries) - 4}, "script": {"latin": len(queries)}},
        "reference": reference,
        "systems": {},
        "comparisons": [],
    }
    for place, (name, middle) in enumerate(systems.items()):
        generator = random.Random(name)
        values = [round(min(max(generator.gauss(middle, noise), 0), 1), 4) for _ in queries]
        mean = sum(values) / len(values)
        table = dict.fromkeys(METRICS, values)
        text = json.dumps({"queries": queries, "metrics": table})
        (folder / f"{name}.queries.json").write_text(text, encoding="utf-8")
        orders = {query: generator.sample(ids, len(ids)) for query in queries}
        run = {query: {key: float(len(ids) - i) for i, key in enumerate(order)} for query, order in orders.items()}
        write_run(folder / f"{name}.trec", run, tag="test")
        estimate = {"mean": mean, "low": mean - 0.02, "high": mean + 0.02}
        system: dict[str, Any] = {
            "type": "genrank" if name in rerankers else "bm25",
            "metrics": dict.fromkeys(METRICS, mean),
            "intervals": dict.fromkeys(METRICS, (mean - 0.02, mean + 0.02)),
            "counts": {},
            "seconds": 1.5 * 3**place,
            "load_seconds": 0.5,
            "queries_per_second": len(queries) / (1.5 * 3**place),
            "cached": place == 1,
            "settings": {"type": "x", "name": name, "fields": ["title", "brand"], "idf": None},
            "order": {"tau": 0.1 * place, "mean_rank_by_place": [(i + 5 + place) / 1.5 for i in range(len(ids))]},
            "slices": {"query length": {"1-2 words": estimate, "3-4 words": estimate}, "script": {"latin": estimate}},
            "clicks": {"auc": 0.7, "log_loss": None},
            "diversity": {"alpha-nDCG@10": 0.6, "categories": 3},
            "exposure": {"brand": {"Acme": 0.25, "Bolt": 0.75}},
        }
        if name in rerankers:
            provenance = Provenance(model="smollm2-135m", prompt="inline 1", prompt_hash="ab" * 8, decoding="inline")
            rankings = [
                Ranking(
                    query,
                    tuple(
                        RankedItem(Listing(key, key), i, 1 / i, ids.index(key) + 1, reason if i <= 3 else None)
                        for i, key in enumerate(order, 1)
                    ),
                    provenance,
                )
                for query, order in orders.items()
            ]
            write_rankings(folder / f"{name}.jsonl", rankings)
            tokens = Tokens(123_456, 7_890, 321)
            system["calibration"] = {"relevant": {"calibration_error": 0.125}}
            system["provenance"] = {"model": "smollm2-135m", "prompt": "inline 1", "prompt_hash": "ab" * 8}
            system["counts"] = {
                "model": len(queries) - 3,
                "repaired": 2,
                "fallback": 1,
                "repairs": 4,
                "whys": {"the engine timed out": 1},
                "cuts": {"history": 120, "candidates": 3},
                "windows": len(queries),
                "prompt_tokens": tokens.prompt,
                "cached_tokens": tokens.cached,
                "completion_tokens": tokens.completion,
            }
        results["systems"][name] = system
        if reference is not None and reference in systems and name != reference:
            low = middle - systems[reference] - 0.015
            results["comparisons"].append(
                {
                    "system": name,
                    "reference": reference,
                    "metric": PRIMARY,
                    "difference": middle - systems[reference],
                    "low": low,
                    "high": low + 0.03,
                    "p_student": 0.01,
                    "p_randomisation": 0.0101,
                    "p_holm": 0.0004 if low > 0 else 0.4,
                    "wins": 5,
                    "ties": 3,
                    "losses": len(queries) - 8,
                }
            )
    results |= changes or {}
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return folder
