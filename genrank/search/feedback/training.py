"""Turns a log into training data: a dataset folder that fine-tuning reads like any other."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from genrank.data.dataset import Dataset, DatasetQuery, Grade
from genrank.data.jsonl import write_jsonl
from genrank.data.trec import Qrels, Run
from genrank.errors import InputError
from genrank.search.feedback.bias import Attraction
from genrank.types import Listing, Query

LEVELS = 100
"""Steps to which estimates are rounded."""

FIRST_STAGE = "feedback"
"""The first stage that the datasets name: listings in the order of their mean ranks."""


@dataclass(frozen=True)
class TrainingSet:
    """What a model can learn from a log.

    Attributes:
        dataset: Queries of the split ``train``, each with the listings that were shown for it. Grades are hundredths
            of the greatest estimate in the log. `frequency` is the most lists that one of the query's listings was in.
        attractions: What stands behind each grade, in the order of the qrels.
        seldom_seen: Pairs of query and listing that were left out because they were looked at too seldom.
        unknown: Pairs that were left out because the catalogue lacks the listing.
        undecided: Queries that were left out because fewer than two listings, or only equal grades, were left.
    """

    dataset: Dataset
    attractions: Sequence[Attraction]
    seldom_seen: int
    unknown: int
    undecided: int

    def save(self, folder: str | Path) -> None:
        """Write the dataset folder, and ``attractions.jsonl`` with the counts behind each grade.

        Raises:
            OSError: When it cannot be written.
        """
        self.dataset.save(folder)
        write_jsonl(Path(folder) / "attractions.jsonl", map(asdict, self.attractions))


def training_set(
    attractions: Sequence[Attraction],
    listings: Mapping[str, Listing],
    *,
    least_examined: float = 1.0,
    name: str = "feedback",
) -> TrainingSet:
    """Make training data of what listings are worth to shoppers.

    Args:
        attractions: From `genrank.search.feedback.bias.attractions`, query by query.
        listings: The catalogue, by id.
        least_examined: Pairs that were looked at less often, by expectation, are left out; 0 or more.
        name: The dataset's name.

    Raises:
        InputError: When no query is left, or `least_examined` is negative.
    """
    if not least_examined >= 0:
        raise InputError(f"must be 0 or more, got {least_examined}", field="least_examined")
    seen = [one for one in attractions if one.examined >= least_examined]
    known = [one for one in seen if one.listing_id in listings]
    most = max((one.estimate for one in known), default=0.0) or 1.0
    queries: list[DatasetQuery] = []
    qrels: Qrels = {}
    run: Run = {}
    kept: list[Attraction] = []
    undecided = 0
    for text, group in groupby(known, key=lambda one: one.query):
        found = list(group)
        grades = {one.listing_id: round(LEVELS * one.estimate / most) for one in found}
        if len(set(grades.values())) < 2 or not text:
            undecided += 1
            continue
        query_id = f"f-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        queries.append(DatasetQuery(Query(text, query_id), "train", frequency=max(one.shown for one in found)))
        qrels[query_id] = grades
        run[query_id] = {one.listing_id: float(len(found) - place) for place, one in enumerate(found)}
        kept += found
    if not queries:
        raise InputError(
            f"no query has two listings with different grades ({len(attractions)} pairs, {len(seen)} looked at often "
            f"enough, {len(known)} of them in the catalogue); log more, or lower least_examined",
            field="attractions",
        )
    used = {one.listing_id for one in kept}
    dataset = Dataset(
        name=name,
        source="What shoppers clicked, from a feedback log; no grade is by a human judge.",
        grades={
            grade: Grade(f"{grade / LEVELS:.2f} of the greatest estimate of a click", grade / LEVELS)
            for grade in range(LEVELS + 1)
        },
        listings={key: listing for key, listing in listings.items() if key in used},
        queries=queries,
        qrels=qrels,
        candidates=run,
        first_stage=FIRST_STAGE,
    )
    return TrainingSet(dataset, kept, len(attractions) - len(seen), len(seen) - len(known), undecided)
