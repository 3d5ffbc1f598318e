"""ESCI, the Shopping Queries Dataset (Reddy et al., arXiv 2206.06588; Apache-2.0): queries of three Amazon shops.

Format: ``shopping_queries_dataset_examples.parquet`` and ``shopping_queries_dataset_products.parquet``.

- Only the reduced version (``small_version`` = 1) is kept: it is the one that the ranking task is defined on.
- Labels Exact, Substitute, Complement, Irrelevant: grades 3, 2, 1, 0 with the task's own gains 1.0, 0.1, 0.01, 0.0.
- Product ids are unique in one shop only, so a listing's id is ``locale_productid``.
- A listing's description is the bullet points, then the description, both without HTML; brand and colour have their
  fields. A product without a title takes the beginning of its description, or its brand, or its id, and is counted.
- Splits: the set's own ``train`` and ``test``; a tenth of ``train``, by the hash of the query's text, is ``dev``.
- candidates.trec holds the judged listings in seeded random order, since the set has no first stage.

The product file is read batch by batch, and only judged products are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eval.sets.markup import clean_html, one_line
from eval.sets.tables import find_file
from genrank.data.dataset import Dataset, DatasetQuery, Grade
from genrank.errors import DataFormatError, InputError, MissingExtraError
from genrank.experiment.splits import fraction, middle_grade, shuffled
from genrank.progress import track
from genrank.types import Listing, Query

SOURCE = (
    "ESCI, Shopping Queries Dataset, arXiv 2206.06588, https://github.com/amazon-science/esci-data, Apache-2.0. "
    "Reduced version; gains 1, 0.1, 0.01, 0; candidates.trec is a seeded random order of the judged listings."
)
GRADES = {
    0: Grade("Irrelevant", 0.0),
    1: Grade("Complement", 0.01),
    2: Grade("Substitute", 0.1),
    3: Grade("Exact", 1.0),
}
LOCALES = ("us", "jp", "es")
_LABELS = {"I": 0, "C": 1, "S": 2, "E": 3}
_EXAMPLES = "shopping_queries_dataset_examples.parquet"
_PRODUCTS = "shopping_queries_dataset_products.parquet"
_EXAMPLE_COLUMNS = ("query", "query_id", "product_id", "product_locale", "esci_label", "small_version", "split")
_PRODUCT_COLUMNS = (
    "product_id",
    "product_title",
    "product_description",
    "product_bullet_point",
    "product_brand",
    "product_color",
    "product_locale",
)
_TITLE_CHARS = 150
_BATCH_ROWS = 16384


def read(source: Path, notes: Counter[str], seed: int = 0, locale: str = "all") -> Dataset:
    """Read the set.

    Args:
        source: The folder with the two files.
        notes: Counts what was repaired or merged.
        seed: Seed of the order of the candidates.
        locale: ``us``, ``jp``, ``es`` or ``all``.

    Raises:
        DataFormatError: When a file does not have the public format, or nothing of it is left to keep.
        MissingExtraError: When pyarrow is not installed.
    """
    if not source.is_dir():
        raise DataFormatError(str(source), 0, f"a folder with {_EXAMPLES} and {_PRODUCTS}", "no folder")
    queries: dict[str, DatasetQuery] = {}
    judged: dict[str, dict[str, list[int]]] = {}
    path = find_file(source, (_EXAMPLES,))
    for number, row in track(_rows(path, _EXAMPLE_COLUMNS), path.name):
        if row["small_version"] != 1 or locale not in ("all", row["product_locale"]):
            continue
        where = f"row {number}: "
        if row["esci_label"] not in _LABELS:
            found = f"{where}{row['esci_label']!r}"
            raise DataFormatError(str(path), 0, f"an esci_label of {', '.join(sorted(_LABELS))}", found)
        if row["split"] not in ("train", "test"):
            raise DataFormatError(str(path), 0, "split train or test", f"{where}{row['split']!r}")
        identifier = str(row["query_id"])
        if identifier not in queries:
            text = one_line(row["query"] or "")
            dev = row["split"] == "train" and fraction(text) < 0.1
            try:
                queries[identifier] = DatasetQuery(Query(text, identifier), "dev" if dev else row["split"])
            except InputError as error:
                raise DataFormatError(str(path), 0, "a query", f"{where}{error}") from None
        listing_id = f"{row['product_locale']}_{row['product_id']}"
        grades = judged.setdefault(identifier, {}).setdefault(listing_id, [])
        notes["repeated_judgements"] += bool(grades)
        grades.append(_LABELS[row["esci_label"]])
    if not judged:
        raise DataFormatError(str(path), 0, f"rows with small_version 1 and locale {locale}", "none")
    qrels = {query: {key: middle_grade(grades) for key, grades in pairs.items()} for query, pairs in judged.items()}
    listings = _listings(find_file(source, (_PRODUCTS,)), {key for pairs in qrels.values() for key in pairs}, notes)
    return Dataset("esci", SOURCE, GRADES, listings, tuple(queries.values()), qrels, shuffled(qrels, seed), "random")


def _listings(path: Path, wanted: set[str], notes: Counter[str]) -> dict[str, Listing]:
    listings: dict[str, Listing] = {}
    for number, row in track(_rows(path, _PRODUCT_COLUMNS), path.name):
        listing_id = f"{row['product_locale']}_{row['product_id']}"
        if listing_id not in wanted:
            continue
        if listing_id in listings:
            raise DataFormatError(str(path), 0, "each product once in a locale", f"row {number}: {listing_id} again")
        texts = (clean_html(row[column] or "") for column in ("product_bullet_point", "product_description"))
        description = "\n".join(text for text in texts if text)
        brand, title = one_line(row["product_brand"] or ""), one_line(row["product_title"] or "")
        if not title:
            notes["listings_without_title"] += 1
            title = description.partition("\n")[0][:_TITLE_CHARS].strip() or brand or str(row["product_id"])
        colour = one_line(row["product_color"] or "")
        try:
            listing = Listing(listing_id, title, description, brand, attributes={"colour": colour} if colour else {})
        except InputError as error:
            raise DataFormatError(str(path), 0, "a product", f"row {number}: {error}") from None
        listings[listing_id] = listing
    if lost := wanted - listings.keys():
        found = f"none for {len(lost)} of {len(wanted)}, such as {min(lost)}"
        raise DataFormatError(str(path), 0, "a row for each judged product", found)
    return listings


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a Parquet file with their number, 0-based, one batch in memory at a time."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError("pyarrow", "eval") from None
    try:
        with pq.ParquetFile(path) as file:
            found = file.schema_arrow.names
            missing = [column for column in columns if column not in found]
            if missing:
                raise DataFormatError(str(path), 0, f"the columns {', '.join(columns)}", f"no {missing[0]} in {found}")
            if not file.metadata.num_rows:
                raise DataFormatError(str(path), 0, "at least one row", "none")
            number = 0
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=list(columns)):
                for row in batch.to_pylist():
                    yield number, row
                    number += 1
    except pa.ArrowException as error:
        raise DataFormatError(str(path), 0, "a Parquet file", str(error)) from None
