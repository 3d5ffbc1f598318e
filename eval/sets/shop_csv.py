"""A shop's own CSV files: a catalogue, and judgements of what it finds.

Format: a folder with ``listings.csv`` and ``judgements.csv`` (each may end in ``.gz``), in UTF-8, with a header line.

- ``listings.csv`` has ``listing_id`` and ``title``. ``description``, ``brand``, ``category`` (widest first,
  ``Women > Dresses``), ``price`` and ``currency``, ``rating``, ``rating_count``, ``in_stock`` (true or false),
  ``seller_id`` and ``image_url`` are known too; every other column is an attribute. Empty cells are left out.
- ``judgements.csv`` has ``query``, ``listing_id`` and ``grade``, a whole number from 0: the higher, the better. Gain:
  ``2^grade - 1``. A pair that was judged more than once gets the median, the lower of two middle ones.
- Splits by the hash of the query's text: 70 % train, 10 % dev, 20 % test. A column ``split`` decides instead where it
  is there.
- There is no first stage: candidates are the judged listings in seeded random order, until ``python -m
  eval.first_stage`` or a candidates.trec of the shop's own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.sets.markup import one_line
from eval.sets.tables import find_file, read_csv
from genrank.data.dataset import Dataset, DatasetQuery, Grade
from genrank.errors import DataFormatError, InputError
from genrank.experiment.splits import middle_grade, query_id, shuffled, split_of
from genrank.inputs import at
from genrank.progress import track
from genrank.types import Listing, Price, Query

SPLITS = ("train", "dev", "test")
_TEXTS = ("listing_id", "title", "description", "brand", "seller_id", "image_url")
_KNOWN = (*_TEXTS, "category", "price", "currency", "rating", "rating_count", "in_stock")
_IN_STOCK = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def read(source: Path, notes: Counter[str], seed: int = 0, *, name: str = "shop") -> Dataset:
    """Read a shop's files.

    Args:
        source: The folder with the two files.
        notes: Counts what was merged.
        seed: Seed of the order of the candidates.
        name: The dataset's name.

    Raises:
        DataFormatError: When a row is wrong; it names the file and the line, what was expected and what was found.
    """
    if not source.is_dir():
        raise DataFormatError(str(source), 0, "a folder with listings.csv and judgements.csv", "no folder")
    listings: dict[str, Listing] = {}
    path = find_file(source, ("listings.csv", "listings.csv.gz"))
    for line, row in track(read_csv(path, ("listing_id", "title")), path.name):
        listing = _listing(path, line, row)
        if listing.listing_id in listings:
            raise DataFormatError(str(path), line, "each listing_id once", f"{listing.listing_id!r} again")
        listings[listing.listing_id] = listing
    queries: dict[str, DatasetQuery] = {}
    judged: dict[str, dict[str, list[int]]] = {}
    path = find_file(source, ("judgements.csv", "judgements.csv.gz"))
    for line, row in track(read_csv(path, ("query", "listing_id", "grade")), path.name):
        query = _query(path, line, row)
        key, listing_id = query.query.query_id, row["listing_id"].strip()
        if queries.setdefault(key, query).split != query.split:
            expected = f"{queries[key].split!r} as the split of {query.query.text!r}, as above"
            raise DataFormatError(str(path), line, expected, repr(query.split))
        if listing_id not in listings:
            raise DataFormatError(str(path), line, "a listing_id of listings.csv", repr(listing_id))
        grades = judged.setdefault(key, {}).setdefault(listing_id, [])
        notes["repeated_judgements"] += bool(grades)
        grades.append(_grade(path, line, row["grade"]))
    qrels = {key: {one: middle_grade(grades) for one, grades in pairs.items()} for key, pairs in judged.items()}
    best = max(grade for pairs in qrels.values() for grade in pairs.values())
    labels = {grade: Grade(f"{grade} of {best}", 2.0**grade - 1) for grade in range(best + 1)}
    said = f"{source.name}/listings.csv and judgements.csv; gain = 2^grade - 1"
    return Dataset(name, said, labels, listings, tuple(queries.values()), qrels, shuffled(qrels, seed), "random")


def _listing(path: Path, line: int, row: Mapping[str, str]) -> Listing:
    cells = {column: one_line(value) for column, value in row.items()}
    texts: dict[str, Any] = {column: cells[column] for column in _TEXTS if cells.get(column)}
    for column in ("listing_id", "title"):
        if column not in texts:
            raise DataFormatError(str(path), line, f"text in the column {column}", "nothing")
    amount = _number(path, line, "price", cells)
    count = _number(path, line, "rating_count", cells)
    if count is not None and count != int(count):
        raise DataFormatError(str(path), line, "a whole number or nothing as rating_count", repr(cells["rating_count"]))
    in_stock = cells.get("in_stock", "").lower()
    if in_stock and in_stock not in _IN_STOCK:
        raise DataFormatError(str(path), line, "true, false or nothing as in_stock", repr(cells["in_stock"]))
    try:
        with at("price"):
            price = None if amount is None else Price(amount, cells.get("currency", ""))
        return Listing(
            **texts,
            category=tuple(part.strip() for part in cells.get("category", "").split(">") if part.strip()),
            price=price,
            attributes={column: value for column, value in cells.items() if value and column not in _KNOWN},
            rating=_number(path, line, "rating", cells),
            rating_count=None if count is None else int(count),
            in_stock=_IN_STOCK.get(in_stock),
        )
    except InputError as error:
        raise DataFormatError(str(path), line, "a listing", str(error)) from None


def _query(path: Path, line: int, row: Mapping[str, str]) -> DatasetQuery:
    text = one_line(row["query"])
    if not text:
        raise DataFormatError(str(path), line, "text in the column query", "nothing")
    split = row["split"].strip() if "split" in row else split_of(text)
    if split not in SPLITS:
        raise DataFormatError(str(path), line, f"a split of {', '.join(SPLITS)}", repr(split))
    return DatasetQuery(Query(text, query_id(text)), split)


def _grade(path: Path, line: int, text: str) -> int:
    if not text.strip().isdecimal() or (grade := int(text)) > 10:
        raise DataFormatError(str(path), line, "a whole number from 0 to 10 as grade", repr(text))
    return grade


def _number(path: Path, line: int, column: str, cells: Mapping[str, str]) -> float | None:
    text = cells.get(column, "")
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataFormatError(str(path), line, f"a number or nothing as {column}", repr(text))
    return number
