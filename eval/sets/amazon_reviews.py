"""Amazon Reviews 2023 (Hou et al., arXiv 2403.03952): the public files of any of its 33 categories.

Format: ``CATEGORY.jsonl`` (reviews: ``user_id, parent_asin, rating, timestamp`` in milliseconds, ..) with
``meta_CATEGORY.jsonl`` (items: ``parent_asin, title, categories, features, description, price, details, store``, ..),
each or ``.gz``; one pair or several.

- Users with 5 reviews or more (``--min-interactions``) over all pairs are kept, or a sample of them by a hash
  (``--max-users``). The same item at the same millisecond is one review.
- One query per user, asked at the time of the user's last review. There is no search text: the query is the narrowest
  category of the item reviewed.
- History: the user's other reviews, as ``rating`` events, strictly older than the query. A review of the same
  millisecond as the last is left out and counted.
- Grade 1, gain 1: the item of the last review, whatever its rating: it was bought. Nothing else is judged.
- Candidates: that item and 19 items that kept users reviewed, but not this one: of the same narrowest category, then
  of the next wider, drawn by a hash, all in seeded random order. One of them may be newer than the query; none is
  in the history, so a candidate that is must be the target. A query with fewer is counted; one without any is left
  out and counted.
- Splits: by the hash of the user id, 70 % train, 10 % dev, 20 % test; or with ``--split-by time`` the latest 20 % of
  the queries are test, the 10 % before them dev. A user has one query, so no user is in two splits either way.
- A listing has no reviews, rating, rating count or best-seller rank: in the metadata these date from 2023, later than
  almost every query. Price and text date from 2023 too. An item without metadata or title has its id as title.

The review files are read twice, the others once; memory holds one number per user, and the kept users'
reviews and items.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from eval.sets.histories import (
    NEGATIVES,
    Milliseconds,
    Stars,
    before,
    moment,
    negatives,
    read_records,
    split_by_time,
)
from eval.sets.markup import clean_html
from eval.sets.tables import find_file
from genrank.data.dataset import Dataset, DatasetQuery, Grade
from genrank.data.trec import Qrels
from genrank.errors import DataFormatError, InputError
from genrank.experiment.splits import digest, shuffled, split_of
from genrank.progress import track
from genrank.text.clean import clean
from genrank.types import Id, Interaction, Listing, Price, Query

SOURCE = (
    "Amazon Reviews 2023 (arXiv 2403.03952, McAuley lab, UCSD, https://amazon-reviews-2023.github.io): research use. "
    "No search text: the query is the narrowest category of the user's last item, which is the only judgement, gain 1; "
    "candidates.trec is it and 19 other items of the category in a seeded random order."
)
GRADES = {0: Grade("not the item of the user's last review", 0.0), 1: Grade("the item of the user's last review", 1.0)}
SPLITS_BY = ("user", "time")
_META = re.compile(r"meta_(.+)\.jsonl(?:\.gz)?")
_OF_2023 = frozenset({"Best Sellers Rank", "Customer Reviews"})

Reviews = dict[str, dict[tuple[int, str], float]]
"""``{user_id: {(timestamp, parent_asin): rating}}``."""


class _Review(BaseModel):
    user_id: Id
    parent_asin: Id
    rating: Stars
    timestamp: Milliseconds


class _Item(BaseModel):
    parent_asin: Id
    title: str | None
    categories: list[str] | None
    features: list[str] | None = None
    description: list[str] | None = None
    price: float | str | None = None
    details: dict[str, Any] | None = None
    store: str | None = None


def read(
    source: Path,
    notes: Counter[str],
    seed: int = 0,
    min_interactions: int = 5,
    max_users: int | None = None,
    split_by: str = "user",
) -> Dataset:
    """Read the set.

    Args:
        source: The folder with one or several pairs of files.
        notes: Counts what was repaired or left out.
        seed: Seed of the sample of users, of the other candidates, and of the order of all.
        min_interactions: Users with fewer reviews are left out; at least 2.
        max_users: Users to keep; None keeps all.
        split_by: ``user`` or ``time``.

    Raises:
        DataFormatError: When a file does not have the public format, or no user has that many reviews.
        InputError: When `min_interactions`, `max_users` or `split_by` is out of range.
    """
    if min_interactions < 2:
        raise InputError(f"must be 2 or more, got {min_interactions}", field="min_interactions")
    if max_users is not None and max_users < 1:
        raise InputError(f"must be 1 or more, got {max_users}", field="max_users")
    if split_by not in SPLITS_BY:
        raise InputError(f"must be one of {', '.join(SPLITS_BY)}, got {split_by!r}", field="split_by")
    pairs = _pairs(source)
    users = _users([reviews for reviews, _ in pairs.values()], min_interactions, max_users, seed, notes)
    if not users:
        raise DataFormatError(str(source), 0, f"a user with {min_interactions} reviews", "none")
    reviewed: Reviews = defaultdict(dict)
    files: dict[str, str] = {}
    for name, (path, _) in pairs.items():
        for _, review in track(read_records(path, _Review), path.name):
            if review.user_id in users:
                key = (review.timestamp, review.parent_asin)
                notes["repeated_reviews"] += key in reviewed[review.user_id]
                reviewed[review.user_id].setdefault(key, review.rating)
                files.setdefault(review.parent_asin, name.replace("_", " "))
    listings = _listings([path for _, path in pairs.values()], files, notes)
    return _dataset(reviewed, listings, notes, seed, min_interactions, split_by)


def _pairs(source: Path) -> dict[str, tuple[Path, Path]]:
    """Review file and metadata file of each category."""
    expected = "a folder with CATEGORY.jsonl and meta_CATEGORY.jsonl, or .jsonl.gz"
    if not source.is_dir():
        raise DataFormatError(str(source), 0, expected, "no folder")
    names = sorted({found[1] for path in source.iterdir() if (found := _META.fullmatch(path.name))})
    if not names:
        raise DataFormatError(str(source), 0, expected, "no meta_CATEGORY.jsonl in it")
    return {
        name: (
            find_file(source, (f"{name}.jsonl", f"{name}.jsonl.gz")),
            find_file(source, (f"meta_{name}.jsonl", f"meta_{name}.jsonl.gz")),
        )
        for name in names
    }


def _users(paths: Iterable[Path], least: int, most: int | None, seed: int, notes: Counter[str]) -> set[str]:
    counts: Counter[str] = Counter()
    for path in paths:
        for _, review in track(read_records(path, _Review), f"{path.name}, users"):
            counts[review.user_id] += 1
    users = {user for user, count in counts.items() if count >= least}
    notes["users_with_too_few_reviews"] += len(counts) - len(users)
    if most is None or len(users) <= most:
        return users
    notes["users_not_sampled"] += len(users) - most
    return set(heapq.nsmallest(most, users, key=lambda user: digest(str(seed), user)))


def _listings(paths: Iterable[Path], files: Mapping[str, str], notes: Counter[str]) -> dict[str, Listing]:
    found: dict[str, Listing] = {}
    for path in paths:
        for line, item in track(read_records(path, _Item), path.name):
            if item.parent_asin not in files or item.parent_asin in found:
                continue
            try:
                found[item.parent_asin] = _listing(item, files[item.parent_asin], notes)
            except InputError as error:
                raise DataFormatError(str(path), line, "an item", str(error)) from None
    notes["listings_without_metadata"] += len(files) - len(found)
    return {key: found.get(key) or Listing(key, key, category=(name,)) for key, name in files.items()}


def _listing(item: _Item, file: str, notes: Counter[str]) -> Listing:
    title = clean(item.title or "")
    notes["listings_without_title"] += not title
    texts = (clean_html(text) for text in (*(item.features or ()), *(item.description or ())))
    details = {clean(key): clean(value) for key, value in (item.details or {}).items() if isinstance(value, str)}
    names = (clean(name) for name in item.categories or ())
    return Listing(
        listing_id=item.parent_asin,
        title=title or item.parent_asin,
        description="\n".join(text for text in texts if text),
        brand=details.pop("Brand", "") or clean(item.store or ""),
        category=tuple(name for name in names if name) or (file,),
        price=_price(item.price),
        attributes={key: value for key, value in details.items() if key and value and key not in _OF_2023},
    )


def _price(value: float | str | None) -> Price | None:
    """A number, or the first number of a text such as ``from 12.99``."""
    if isinstance(value, str):
        number = re.search(r"\d[\d,]*(?:\.\d+)?", value, re.ASCII)
        value = float(number[0].replace(",", "")) if number else None
    return None if value is None else Price(value, "USD")


def _dataset(
    reviewed: Reviews, listings: dict[str, Listing], notes: Counter[str], seed: int, least: int, split_by: str
) -> Dataset:
    pools: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for listing in listings.values():
        for depth in range(len(listing.category)):
            pools[listing.category[: depth + 1]].append(listing.listing_id)
    queries = []
    qrels: Qrels = {}
    candidates = {}
    for user, reviews in reviewed.items():
        if len(reviews) < least:
            notes["users_with_too_few_reviews"] += 1
            continue
        last, target = max(reviews)
        path = listings[target].category
        widening = [pools[path[:depth]] for depth in range(len(path), 0, -1)]
        query_id = f"user-{user}"
        others = negatives(query_id, widening, {item for _, item in reviews}, seed)
        if not others:
            notes["queries_without_other_candidates"] += 1
            continue
        notes["queries_with_fewer_candidates"] += len(others) < NEGATIVES
        events = (
            Interaction("rating", listings[item], moment(time), rating)
            for (time, item), rating in reviews.items()
            if (time, item) != (last, target)
        )
        query = Query(path[-1], query_id)
        history = before(moment(last), events, notes)
        queries.append(DatasetQuery(query=query, split=split_of(user), history=history, time=moment(last)))
        qrels[query_id] = {target: 1}
        candidates[query_id] = [target, *others]
    return Dataset(
        name="amazon_reviews",
        source=SOURCE,
        grades=GRADES,
        listings=listings,
        queries=split_by_time(queries) if split_by == "time" else tuple(queries),
        qrels=qrels,
        candidates=shuffled(candidates, seed),
        first_stage="random",
    )
