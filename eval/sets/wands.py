"""WANDS, the Wayfair Annotation Dataset (Chen et al., ECIR 2022; MIT licence): 480 queries, 42,994 products.

Format: ``query.csv``, ``product.csv`` and ``label.csv``, tab-separated, as in the set's own repository.

- Grades: Irrelevant 0, Partial 1, Exact 2, with gains 0, 0.5 and 1. The set itself states no gains; these are the
  usual ones for its labels.
- ``product_features`` (``name : value|name : value``) become attributes; a repeated name has its values joined by
  ``, ``, and a value without a name goes under ``features``. ``product_class`` is one of the attributes.
- The whole catalogue is kept, so that a first stage can be run over it: ``python -m eval.first_stage``.
- A pair that was judged more than once gets the median of its grades, the lower of two middle ones.
- Splits by the hash of the query's text: 70 % train, 10 % dev, 20 % test.
- candidates.trec holds the judged listings in seeded random order, since the set has no first stage.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from eval.sets.markup import clean_html, one_line
from eval.sets.tables import find_file, read_csv
from genrank.data.dataset import Dataset, DatasetQuery, Grade
from genrank.errors import DataFormatError, InputError
from genrank.experiment.splits import middle_grade, shuffled, split_of
from genrank.progress import track
from genrank.types import Listing, Query

SOURCE = (
    "WANDS, Wayfair Annotation Dataset, https://github.com/wayfair/WANDS, MIT licence. Gains 1, 0.5, 0 for Exact, "
    "Partial, Irrelevant; candidates.trec is a seeded random order of the judged listings."
)
GRADES = {0: Grade("Irrelevant", 0.0), 1: Grade("Partial", 0.5), 2: Grade("Exact", 1.0)}
_PRODUCT_COLUMNS = (
    "product_id",
    "product_name",
    "product_class",
    "category hierarchy",
    "product_description",
    "product_features",
    "rating_count",
    "average_rating",
)
_LABELS = {grade.label: number for number, grade in GRADES.items()}


def read(source: Path, notes: Counter[str], seed: int = 0) -> Dataset:
    """Read the set.

    Args:
        source: The folder with the three files, or the clone whose ``dataset`` folder holds them.
        notes: Counts what was repaired or merged.
        seed: Seed of the order of the candidates.

    Raises:
        DataFormatError: When a file does not have the public format.
    """
    folder = source / "dataset" if (source / "dataset").is_dir() else source
    if not folder.is_dir():
        raise DataFormatError(str(source), 0, "a folder with query.csv, product.csv and label.csv", "no folder")
    listings: dict[str, Listing] = {}
    path = find_file(folder, ("product.csv", "product.csv.gz"))
    for line, row in track(read_csv(path, _PRODUCT_COLUMNS, "\t"), path.name):
        listing = _listing(path, line, row)
        if listing.listing_id in listings:
            raise DataFormatError(str(path), line, "each product_id once", f"{listing.listing_id!r} again")
        listings[listing.listing_id] = listing
    queries: dict[str, DatasetQuery] = {}
    path = find_file(folder, ("query.csv", "query.csv.gz"))
    for line, row in read_csv(path, ("query_id", "query"), "\t"):
        text = one_line(row["query"])
        try:
            query = DatasetQuery(Query(text, row["query_id"]), split_of(text))
        except InputError as error:
            raise DataFormatError(str(path), line, "a query", str(error)) from None
        if query.query.query_id in queries:
            raise DataFormatError(str(path), line, "each query_id once", f"{row['query_id']!r} again")
        queries[query.query.query_id] = query
    judged: dict[str, dict[str, list[int]]] = {}
    path = find_file(folder, ("label.csv", "label.csv.gz"))
    for line, row in track(read_csv(path, ("query_id", "product_id", "label"), "\t"), path.name):
        if row["label"] not in _LABELS:
            raise DataFormatError(str(path), line, f"a label of {', '.join(_LABELS)}", repr(row["label"]))
        for column, known in (("query_id", queries), ("product_id", listings)):
            if row[column] not in known:
                raise DataFormatError(str(path), line, f"a {column} of the other files", repr(row[column]))
        grades = judged.setdefault(row["query_id"], {}).setdefault(row["product_id"], [])
        notes["repeated_judgements"] += bool(grades)
        grades.append(_LABELS[row["label"]])
    qrels = {query: {key: middle_grade(grades) for key, grades in pairs.items()} for query, pairs in judged.items()}
    notes["queries_without_judgement"] += len(queries) - len(qrels)
    kept = tuple(query for key, query in queries.items() if key in qrels)
    return Dataset("wands", SOURCE, GRADES, listings, kept, qrels, shuffled(qrels, seed), "random")


def _listing(path: Path, line: int, row: Mapping[str, str]) -> Listing:
    attributes = attributes_of(row["product_features"])
    if product_class := one_line(row["product_class"]):
        attributes.setdefault("class", product_class.replace("|", ", "))
    category = tuple(part for part in (one_line(p) for p in row["category hierarchy"].split(" / ")) if part)
    count = _number(path, line, "rating_count", row["rating_count"])
    rating = _number(path, line, "average_rating", row["average_rating"])
    try:
        return Listing(
            listing_id=row["product_id"],
            title=one_line(row["product_name"]),
            description=clean_html(row["product_description"]),
            category=category,
            attributes=attributes,
            rating=rating,
            rating_count=None if count is None else int(count),
        )
    except InputError as error:
        raise DataFormatError(str(path), line, "a product", str(error)) from None


def attributes_of(features: str) -> dict[str, str]:
    """The attributes in ``name : value|name : value``; repeated names have their values joined by ``, ``."""
    values: dict[str, list[str]] = {}
    for part in features.split("|"):
        name, colon, value = part.partition(":")
        name, value = (one_line(name), one_line(value)) if colon else ("", one_line(part))
        known = values.setdefault(name or "features", [])
        if value and value not in known:
            known.append(value)
    return {name: ", ".join(known) for name, known in values.items() if known}


def _number(path: Path, line: int, column: str, text: str) -> float | None:
    if not text.strip():
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.inf
    if not math.isfinite(number):
        raise DataFormatError(str(path), line, f"a number or nothing as {column}", repr(text))
    return number
