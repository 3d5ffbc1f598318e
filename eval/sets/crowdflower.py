"""CrowdFlower Search Results Relevance (Kaggle, 2015): 261 queries of shoppers, listings of several shops.

Format: ``train.csv`` (or ``.csv.gz``) with ``id, query, product_title, product_description, median_relevance,
relevance_variance``; the last is not used.

- Grade: the median rating of the crowd, 1 to 4, minus one; gain ``2^grade - 1`` = 0, 1, 3, 7. So a listing that all
  raters found wrong is worth nothing.
- A listing is title and cleaned description (`eval.sets.markup`); equal ones are one listing, whatever query they
  came with, and its id is a hash of both. A quarter of the descriptions is empty.
- A pair of query and listing that was rated more than once gets the median of its grades, the lower of two middle ones.
- Splits: queries sorted by the hash of their text; the first 61 are ``test``, the next 30 ``dev``, the other 170
  ``train``.
- There is no first stage: candidates are the judged listings in seeded random order.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from eval.sets.markup import clean_html, one_line
from eval.sets.tables import find_file, read_csv
from genrank.data.dataset import Dataset, DatasetQuery, Grade
from genrank.errors import DataFormatError
from genrank.experiment.splits import digest, middle_grade, query_digest, query_id, shuffled
from genrank.progress import track
from genrank.types import Listing, Query

SOURCE = (
    "CrowdFlower Search Results Relevance, Kaggle 2015. Kaggle competition rules: research and measurement only, "
    "do not redistribute. Grade = median rating - 1, gain = 2^grade - 1; candidates.trec is a seeded random order of "
    "the judged listings."
)
GRADES = {
    0: Grade("rated 1 of 4: does not match the query", 0.0),
    1: Grade("rated 2 of 4", 1.0),
    2: Grade("rated 3 of 4", 3.0),
    3: Grade("rated 4 of 4: matches the query completely", 7.0),
}
TEST_QUERIES = 61
DEV_QUERIES = 30
_COLUMNS = ("query", "product_title", "product_description", "median_relevance")


def read(
    source: Path,
    notes: Counter[str],
    seed: int = 0,
    test_queries: int = TEST_QUERIES,
    dev_queries: int = DEV_QUERIES,
) -> Dataset:
    """Read the set.

    Args:
        source: ``train.csv``, ``train.csv.gz`` or the folder that holds it.
        notes: Counts what was repaired or merged.
        seed: Seed of the order of the candidates.
        test_queries: Size of the test split.
        dev_queries: Size of the dev split.

    Raises:
        DataFormatError: When the file does not have the public format.
    """
    path = find_file(source, ("train.csv", "train.csv.gz"))
    listings: dict[str, Listing] = {}
    texts: dict[str, str] = {}
    judged: dict[str, dict[str, list[int]]] = {}
    for line, row in track(read_csv(path, _COLUMNS), path.name):
        text, title = one_line(row["query"]), one_line(row["product_title"])
        for column, value in (("query", text), ("product_title", title)):
            if not value:
                raise DataFormatError(str(path), line, f"text in the column {column}", "nothing")
        if row["median_relevance"] not in ("1", "2", "3", "4"):
            raise DataFormatError(str(path), line, "median_relevance 1, 2, 3 or 4", repr(row["median_relevance"]))
        description = clean_html(row["product_description"])
        if not row["product_description"].strip():
            notes["rows_without_description"] += 1
        elif not description:
            notes["rows_with_nothing_but_markup"] += 1
        listing_id = f"cf-{digest(title, description)[:16]}"
        listings.setdefault(listing_id, Listing(listing_id, title, description))
        identifier = query_id(text)
        texts.setdefault(identifier, text)
        grades = judged.setdefault(identifier, {}).setdefault(listing_id, [])
        notes["repeated_judgements"] += bool(grades)
        grades.append(int(row["median_relevance"]) - 1)
    qrels = {query: {key: middle_grade(grades) for key, grades in pairs.items()} for query, pairs in judged.items()}
    ordered = sorted(texts, key=lambda key: query_digest(texts[key]))
    splits = dict.fromkeys(ordered[:test_queries], "test")
    splits |= dict.fromkeys(ordered[test_queries : test_queries + dev_queries], "dev")
    queries = tuple(DatasetQuery(Query(text, key), splits.get(key, "train")) for key, text in texts.items())
    return Dataset("crowdflower", SOURCE, GRADES, listings, queries, qrels, shuffled(qrels, seed), "random")
