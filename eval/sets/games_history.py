"""Games histories (Amazon reviews of video games, with SASRec's lists): 5,600 shoppers, 16,859 games, titles only.

Format: ``items.jsonl`` (``item_id, title``) and ``users.jsonl`` (``user_id``, ``history``: item ids, oldest first,
``target``: the item bought next, ``sasrec``: the 50 best of a SASRec recommender, best first), each or ``.gz``.

- One query per user. There is no search text: every query is ``video games``, so only the history distinguishes users.
- The history holds purchases without times; the file's order says that all came before the target.
- Grade 1, gain 1: the target. Nothing else is judged: that an item was not bought next does not say that it is wrong.
  Items without a judgement count as not relevant in a metric, and are counted.
- candidates.trec is SASRec's list in its order, scores ``n, n - 1, .. 1``. About four of five targets are not among
  the 50; they keep their judgement, so that recall is honest and nDCG has a ceiling far below 1.
- Items of the history that SASRec lists again stay.
- Splits by the hash of the user id: 70 % train, 10 % dev, 20 % test.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from eval.sets.histories import read_records
from eval.sets.tables import find_file
from genrank.data.dataset import Dataset, DatasetQuery, Grade
from genrank.data.trec import Qrels, Run
from genrank.errors import DataFormatError, InputError
from genrank.experiment.splits import split_of
from genrank.progress import track
from genrank.text.clean import clean
from genrank.types import Id, Interaction, Listing, Query

SOURCE = (
    "Games-6k of LLMRank (arXiv 2305.08845, https://github.com/RUCAIBox/LLMRank, MIT), from the Amazon reviews of the "
    "McAuley lab, UCSD: research use. No search text: every query is 'video games'. The item bought next is the only "
    "judgement, gain 1; candidates.trec is SASRec's list."
)
GRADES = {0: Grade("not bought next", 0.0), 1: Grade("bought next", 1.0)}
QUERY = "video games"


class _Item(BaseModel):
    item_id: Id
    title: str


class _User(BaseModel):
    user_id: Id
    history: list[str]
    target: str
    sasrec: Annotated[list[str], Field(min_length=1)]


def read(source: Path, notes: Counter[str], seed: int = 0) -> Dataset:  # noqa: ARG001 - as every set's reader
    """Read the set.

    Args:
        source: The folder with the two files.
        notes: Counts targets among the best 20 and 50 of SASRec.
        seed: Not used: SASRec's order is the set's own.

    Raises:
        DataFormatError: When a file does not have the expected format.
    """
    if not source.is_dir():
        raise DataFormatError(str(source), 0, "a folder with items.jsonl and users.jsonl", "no folder")
    listings: dict[str, Listing] = {}
    path = find_file(source, ("items.jsonl", "items.jsonl.gz"))
    for line, item in track(read_records(path, _Item), path.name):
        if item.item_id in listings:
            raise DataFormatError(str(path), line, "each item_id once", f"{item.item_id!r} again")
        try:
            listings[item.item_id] = Listing(item.item_id, clean(item.title))
        except InputError as error:
            raise DataFormatError(str(path), line, "an item", str(error)) from None
    queries: dict[str, DatasetQuery] = {}
    qrels: Qrels = {}
    run: Run = {}
    path = find_file(source, ("users.jsonl", "users.jsonl.gz"))
    for line, user in track(read_records(path, _User), path.name):
        for item_id in (*user.history, user.target, *user.sasrec):
            if item_id not in listings:
                raise DataFormatError(str(path), line, "item ids of the items file", repr(item_id))
        if len(set(user.sasrec)) < len(user.sasrec):
            raise DataFormatError(str(path), line, "each item once in sasrec", "one again")
        query = Query(QUERY, f"user-{user.user_id}")
        if query.query_id in queries:
            raise DataFormatError(str(path), line, "each user_id once", f"{user.user_id!r} again")
        history = tuple(Interaction("purchase", listings[item_id]) for item_id in user.history)
        queries[query.query_id] = DatasetQuery(query=query, split=split_of(user.user_id), history=history)
        qrels[query.query_id] = {user.target: 1}
        run[query.query_id] = {item_id: float(len(user.sasrec) - i) for i, item_id in enumerate(user.sasrec)}
        for best in (20, 50):
            notes[f"targets_in_sasrec_{best}"] += user.target in user.sasrec[:best]
    return Dataset(
        name="games_history",
        source=SOURCE,
        grades=GRADES,
        listings=listings,
        queries=tuple(queries.values()),
        qrels=qrels,
        candidates=run,
        first_stage="sasrec",
    )
