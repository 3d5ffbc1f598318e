"""JDsearch (Liu et al., arXiv 2305.14810; CC BY-NC-SA 4.0): real queries of 173,831 shoppers of JD.com, anonymised.

Format, as in the repository's README and samples: ``user_behavior_data.txt`` and ``product_meta_data.txt`` (or
the ``_sample.txt`` files, or ``.gz``), tab-separated with a header line. Lists are joined by ``_``; a text is term ids
joined by the character 24 (octal 030). Tried on the two public samples only, not on the whole set.

- A line of the first file is one user's last query, so its number is the user: query ``jd-LINE``. Splits by the hash
  of that id: 70 % train, 10 % dev, 20 % test. There is no split by time: all these queries are from one day.
- Every text is term ids, such as ``63995226 60257419``: a language model can match them, but knows none of them.
- Grades are the set's labels: 0 no interaction, 1 click, 2 cart, 3 purchase; gain ``2^grade - 1``, our choice: the
  set states none. Every candidate was shown and is judged. A query without a label above 0 is left out and counted,
  as the set's authors do.
- candidates.trec is a seeded random order of the candidates. The file's own order is not that of a first stage: it
  puts those with an interaction before all others.
- History: ``CLICK``, ``CART`` and ``ORD`` are ``click``, ``cart`` and ``purchase``; ``FLW`` (follow) becomes ``click``
  and is counted. The query that led there is kept; ``-1`` is none.
- Times are given as gaps in seconds, the last one up to the query. Queries are set at 2022-10-17T00:00:00Z, a
  nominal day at the end of the collected year, so only differences of times mean anything. What is not strictly before
  the query is left out and counted.
- A listing: name, brand and four categories by their term ids, the shop as seller. A product that the second file does
  not have, or has without a name, gets its id as title and is counted.

All 12 million products make a large folder: ``--max-users`` keeps a sample of the users by a hash, and the products
that they need. The product file is read once, and only these are kept.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from eval.sets.histories import before
from eval.sets.tables import find_file, read_csv
from genrank.data.dataset import Dataset, DatasetQuery, Grade
from genrank.errors import DataFormatError, InputError
from genrank.experiment.splits import digest, shuffled, split_of
from genrank.progress import track
from genrank.types import Event, Interaction, Listing, Query

SOURCE = (
    "JDsearch, arXiv 2305.14810, https://github.com/rucliujn/JDsearch, CC BY-NC-SA 4.0. Texts are anonymised term ids. "
    "Gains 0, 1, 3, 7 for none, click, cart, purchase; candidates.trec is a seeded random order of the candidates; "
    "every query is set at 2022-10-17, only differences of times mean anything."
)
GRADES = {
    0: Grade("no interaction", 0.0),
    1: Grade("click", 1.0),
    2: Grade("cart", 3.0),
    3: Grade("purchase", 7.0),
}
QUERY_TIME = datetime(2022, 10, 17, tzinfo=UTC)
_EVENTS: Mapping[str, Event] = {"CLICK": "click", "CART": "cart", "ORD": "purchase", "FLW": "click"}
_BEHAVIOUR = (
    "query",
    "candidate_wid_list",
    "candidate_label_list",
    "history_qry_list",
    "history_wid_list",
    "history_type_list",
    "history_time_list",
)
_CATEGORIES = ("cate_name_1", "cate_name_2", "cate_name_3", "cate_name_4")
_PRODUCT = ("wid", "name", "brand_name", *_CATEGORIES, "shop_id")


@dataclass(frozen=True, slots=True)
class _Past:
    wid: str
    kind: str
    query: str
    time: datetime


@dataclass(frozen=True, slots=True)
class _User:
    query: Query
    grades: dict[str, int]
    past: tuple[_Past, ...]


def read(source: Path, notes: Counter[str], seed: int = 0, max_users: int | None = None) -> Dataset:
    """Read the set.

    Args:
        source: The folder with the two files.
        notes: Counts what was repaired or left out.
        seed: Seed of the sample of users and the order of the candidates.
        max_users: Users to keep; None keeps all.

    Raises:
        DataFormatError: When a file does not have the public format, or no query has an interaction.
        InputError: When `max_users` is below 1.
    """
    if max_users is not None and max_users < 1:
        raise InputError(f"must be 1 or more, got {max_users}", field="max_users")
    if not source.is_dir():
        found = "no folder"
        raise DataFormatError(str(source), 0, "a folder with user_behavior_data.txt and product_meta_data.txt", found)
    path = _file(source, "user_behavior_data")
    everyone = _users(path, notes)
    if max_users is None:
        users = list(everyone)
    else:
        users = heapq.nsmallest(max_users, everyone, key=lambda user: digest(str(seed), user.query.query_id))
    if not users:
        raise DataFormatError(str(path), 0, "a query with a label above 0", "none")
    wanted = dict.fromkeys(wid for user in users for wid in (*user.grades, *(past.wid for past in user.past)))
    listings = _listings(_file(source, "product_meta_data"), wanted, notes)
    queries = []
    for user in users:
        events = []
        for past in user.past:
            notes["follows_taken_as_clicks"] += past.kind == "FLW"
            events.append(Interaction(_EVENTS[past.kind], listings[past.wid], past.time, query=past.query))
        history = before(QUERY_TIME, events, notes)
        split = split_of(user.query.query_id)
        queries.append(DatasetQuery(query=user.query, split=split, history=history, time=QUERY_TIME))
    qrels = {user.query.query_id: user.grades for user in users}
    return Dataset(
        name="jdsearch",
        source=SOURCE,
        grades=GRADES,
        listings=listings,
        queries=tuple(queries),
        qrels=qrels,
        candidates=shuffled(qrels, seed),
        first_stage="random",
    )


def _file(source: Path, stem: str) -> Path:
    return find_file(source, (f"{stem}.txt", f"{stem}.txt.gz", f"{stem}_sample.txt"))


def _users(path: Path, notes: Counter[str]) -> Iterator[_User]:
    for line, row in track(read_csv(path, _BEHAVIOUR, "\t"), path.name):
        try:
            query = Query(_terms(row["query"]), f"jd-{line}")
        except InputError as error:
            raise DataFormatError(str(path), line, "a query", str(error)) from None
        user = _User(query, _grades(path, line, row, notes), tuple(_past(path, line, row)))
        if any(user.grades.values()):
            yield user
        else:
            notes["queries_without_interaction"] += 1


def _grades(path: Path, line: int, row: Mapping[str, str], notes: Counter[str]) -> dict[str, int]:
    wids = _ids(path, line, row, "candidate_wid_list")
    labels = _numbers(path, line, row, "candidate_label_list")
    if len(labels) != len(wids):
        raise DataFormatError(str(path), line, f"{len(wids)} labels for as many candidates", str(len(labels)))
    grades: dict[str, int] = {}
    for wid, label in zip(wids, labels, strict=True):
        if label not in GRADES:
            raise DataFormatError(str(path), line, "a label 0, 1, 2 or 3 in candidate_label_list", str(label))
        notes["repeated_candidates"] += wid in grades
        grades[wid] = max(grades.get(wid, 0), int(label))
    return grades


def _past(path: Path, line: int, row: Mapping[str, str]) -> Iterator[_Past]:
    wids = _ids(path, line, row, "history_wid_list")
    kinds, queries = _parts(row["history_type_list"]), _parts(row["history_qry_list"])
    gaps = _numbers(path, line, row, "history_time_list")
    for name, values, count in (
        ("history_type_list", kinds, len(wids)),
        ("history_qry_list", queries, len(wids)),
        ("history_time_list", gaps, len(wids) + 1),
    ):
        if wids and len(values) != count:
            expected = f"{count} entries in {name} for {len(wids)} in history_wid_list"
            raise DataFormatError(str(path), line, expected, str(len(values)))
    seconds = 0.0  # from the interaction to the query
    times = []
    try:
        for gap in reversed(gaps[1:]):
            seconds += gap
            times.append(QUERY_TIME - timedelta(seconds=seconds))
    except OverflowError:
        raise DataFormatError(str(path), line, "gaps in seconds in history_time_list", f"{seconds:g} in sum") from None
    for wid, kind, query, time in zip(wids, kinds, queries, reversed(times), strict=False):
        if kind not in _EVENTS:
            raise DataFormatError(str(path), line, f"{', '.join(_EVENTS)} in history_type_list", repr(kind))
        yield _Past(wid, kind, "" if query == "-1" else _terms(query), time)


def _listings(path: Path, wanted: Mapping[str, None], notes: Counter[str]) -> dict[str, Listing]:
    found: dict[str, Listing] = {}
    for line, row in track(read_csv(path, _PRODUCT, "\t"), path.name):
        wid = row["wid"]
        if wid not in wanted:
            continue
        if wid in found:
            raise DataFormatError(str(path), line, "each wid once", f"{wid!r} again")
        name = _terms(row["name"])
        notes["products_without_name"] += not name
        try:
            found[wid] = Listing(
                listing_id=wid,
                title=name or wid,
                brand=_terms(row["brand_name"]),
                category=tuple(text for text in (_terms(row[column]) for column in _CATEGORIES) if text),
                seller_id=_terms(row["shop_id"]),
            )
        except InputError as error:
            raise DataFormatError(str(path), line, "a product", str(error)) from None
    notes["products_without_metadata"] += len(wanted) - len(found)
    return {wid: found.get(wid) or Listing(wid, wid) for wid in wanted}


def _terms(text: str) -> str:
    """Term ids as words; ``-1`` stands for nothing."""
    words = " ".join(text.replace("\x18", " ").split())
    return "" if words == "-1" else words


def _parts(text: str) -> list[str]:
    return text.split("_") if text.strip() else []


def _ids(path: Path, line: int, row: Mapping[str, str], column: str) -> list[str]:
    ids = _parts(row[column])
    for wid in ids:
        if not wid.isalnum():
            raise DataFormatError(str(path), line, f"product ids joined by _ in {column}", repr(wid))
    return ids


def _numbers(path: Path, line: int, row: Mapping[str, str], column: str) -> list[float]:
    numbers = []
    for part in _parts(row[column]):
        try:
            number = float(part)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise DataFormatError(str(path), line, f"numbers in {column}", repr(part))
        numbers.append(number)
    return numbers
