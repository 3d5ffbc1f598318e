"""Home Depot Product Search Relevance (Kaggle, 2016): 11,795 queries of one shop, titles only.

Format: ``train.csv`` (or ``.csv.gz``) with ``id, product_uid, product_title, search_term, relevance``.

- A judgement is the mean of three or more raters' 1 (irrelevant), 2 (partially relevant), 3 (perfect match), so all
  but 59 of 74,067 values are thirds. Grade: ``3 * (mean - 1)`` to the nearest whole number, a half rounded up: 0 to 6.
- Gain: ``2^(grade / 3) - 1``, that is ``2^(mean - 1) - 1``: the exponential gain on the raters' own scale, so that a
  listing that all find perfect (3.0) is worth three that all find partial (1.0), as with three whole grades 0, 1, 2.
  ``2^grade - 1`` on the seven steps would make one 3.0 worth two 2.67, which raters can hardly distinguish.
- ``product_uid`` is the listing's id. 15 of them come with two spellings of their title: the first is kept.
- Splits by the hash of the query's text: 70 % train, 10 % dev, 20 % test.
- There is no first stage: candidates are the judged listings in seeded random order, about 6 for a query.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from eval.sets.markup import one_line
from eval.sets.tables import find_file, read_csv
from genrank.data.dataset import Dataset, DatasetQuery, Grade
from genrank.errors import DataFormatError
from genrank.experiment.splits import middle_grade, query_id, shuffled, split_of
from genrank.progress import track
from genrank.types import Listing, Query

SOURCE = (
    "Home Depot Product Search Relevance, Kaggle 2016. Kaggle competition rules: research and measurement only, do "
    "not redistribute. Grade = round(3 * (mean rating - 1)), gain = 2^(grade / 3) - 1; candidates.trec is a seeded "
    "random order of the judged listings."
)
_WORDS = {0: " (irrelevant)", 3: " (partially relevant)", 6: " (perfect match)"}
GRADES = {
    grade: Grade(f"mean rating {1 + grade / 3:.2f} of 3{_WORDS.get(grade, '')}", 2 ** (grade / 3) - 1)
    for grade in range(7)
}
_COLUMNS = ("product_uid", "product_title", "search_term", "relevance")


def read(source: Path, notes: Counter[str], seed: int = 0) -> Dataset:
    """Read the set.

    Args:
        source: ``train.csv``, ``train.csv.gz`` or the folder that holds it.
        notes: Counts what was repaired or merged.
        seed: Seed of the order of the candidates.

    Raises:
        DataFormatError: When the file does not have the public format.
    """
    path = find_file(source, ("train.csv", "train.csv.gz"))
    listings: dict[str, Listing] = {}
    texts: dict[str, str] = {}
    judged: dict[str, dict[str, list[int]]] = {}
    for line, row in track(read_csv(path, _COLUMNS), path.name):
        text, title, uid = (one_line(row[column]) for column in ("search_term", "product_title", "product_uid"))
        for column, value in (("search_term", text), ("product_title", title)):
            if not value:
                raise DataFormatError(str(path), line, f"text in the column {column}", "nothing")
        if not uid.isdigit():
            raise DataFormatError(str(path), line, "a whole number as product_uid", repr(uid))
        listing = listings.setdefault(uid, Listing(uid, title))
        notes["other_titles"] += listing.title != title
        identifier = query_id(text)
        texts.setdefault(identifier, text)
        grades = judged.setdefault(identifier, {}).setdefault(uid, [])
        notes["repeated_judgements"] += bool(grades)
        grades.append(_grade(path, line, row["relevance"], notes))
    qrels = {query: {key: middle_grade(grades) for key, grades in pairs.items()} for query, pairs in judged.items()}
    queries = tuple(DatasetQuery(Query(text, key), split_of(text)) for key, text in texts.items())
    return Dataset("homedepot", SOURCE, GRADES, listings, queries, qrels, shuffled(qrels, seed), "random")


def _grade(path: Path, line: int, relevance: str, notes: Counter[str]) -> int:
    try:
        mean = float(relevance)
    except ValueError:
        mean = math.nan
    if not 1 <= mean <= 3:
        raise DataFormatError(str(path), line, "relevance from 1 to 3", repr(relevance))
    steps = 3 * (mean - 1)
    grade = math.floor(steps + 0.5)
    notes["means_that_are_no_thirds"] += abs(steps - grade) > 0.02  # the file has two decimals
    return grade
