"""Mixes new feedback with older data."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from eval.retune.config import ReplaySettings
from genrank.data.dataset import Dataset, DatasetQuery, Grade
from genrank.data.trec import Qrels, Run
from genrank.experiment.splits import digest, query_identity
from genrank.types import Listing, Query

LEVELS = 100
"""Grades of the mix: hundredths of the greatest gain of the dataset that a query comes from."""

Identity = tuple[object, ...]
"""From `query_identity`."""


def mixed(
    new: Dataset,
    rounds: Sequence[Dataset],
    originals: Sequence[Dataset],
    settings: ReplaySettings,
    barred: Collection[Identity] = (),
    seed: int = 0,
) -> tuple[Dataset, dict[str, int]]:
    """One dataset of new feedback and of some older queries.

    A query that is in several of them is taken from the newest. Which older ones are drawn depends only on the seed and
    their ids.

    Args:
        new: All its train queries are taken.
        rounds: Of earlier rounds, newest first.
        originals: Other datasets.
        settings: The shares. Where there are too few older queries, their shares are smaller.
        barred: Queries that must not be learned.
        seed: Seed of the draw.

    Returns:
        The dataset, all its queries in the split ``train``, and how many come from ``feedback``, ``rounds`` and
        ``originals``.
    """
    known = set(barred)
    fresh = _unknown([new], known)
    older = {"rounds": _unknown(rounds, known), "originals": _unknown(originals, known)}
    shares = {"rounds": settings.round_share, "originals": settings.original_share}
    whole = len(fresh) / (1 - sum(shares.values()))
    chosen = {"feedback": fresh}
    for name, found in older.items():
        found.sort(key=lambda one: digest(f"replay {seed}", one[1].query.query_id))
        chosen[name] = found[: round(whole * shares[name])]
    return _joined([one for part in chosen.values() for one in part]), {key: len(part) for key, part in chosen.items()}


def _unknown(datasets: Iterable[Dataset], known: set[Identity]) -> list[tuple[Dataset, DatasetQuery]]:
    """The train queries that are not known yet; they are known from then on."""
    found = []
    for dataset in datasets:
        for query in dataset.queries:
            if query.split == "train" and (identity := query_identity(query)) not in known:
                known.add(identity)
                found.append((dataset, query))
    return found


def _joined(chosen: Sequence[tuple[Dataset, DatasetQuery]]) -> Dataset:
    queries: list[DatasetQuery] = []
    qrels: Qrels = {}
    candidates: Run = {}
    listings: dict[str, Listing] = {}
    for dataset, query in chosen:
        own = query.query.query_id
        query_id = own if own not in qrels else f"{own}-{len(queries)}"
        most = max(grade.gain for grade in dataset.grades.values())
        judged = dataset.qrels.get(own, {})
        gains = {key: max(dataset.grades[grade].gain, 0.0) for key, grade in judged.items()}
        shown = list(dataset.candidates.get(own, judged))
        queries.append(
            DatasetQuery(Query(query.query.text, query_id), "train", query.history, query.time, query.frequency)
        )
        qrels[query_id] = {key: round(LEVELS * gain / most) if most > 0 else 0 for key, gain in gains.items()}
        candidates[query_id] = {key: float(len(shown) - place) for place, key in enumerate(shown)}
        for key in (*judged, *shown):
            listings.setdefault(key, dataset.listings[key])
    return Dataset(
        name="retune",
        source="Feedback of a shop, mixed with older data; see version.json of the version trained on it.",
        grades={
            grade: Grade(f"{grade / LEVELS:.2f} of the greatest gain", grade / LEVELS) for grade in range(LEVELS + 1)
        },
        listings=listings,
        queries=queries,
        qrels=qrels,
        candidates=candidates,
        first_stage="as shown",
    )
