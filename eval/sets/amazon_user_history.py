"""A sample of Amazon Reviews 2023 (arXiv 2403.03952) with histories: 354 shoppers, 24 categories, 691 queries.

Format: ``training.jsonl``, ``validation.jsonl`` and ``test.jsonl`` (or ``.jsonl.gz``), one line per user and category:
``user_id``, ``category``, ``history`` (reviews) and ``heldout`` (the user's last review there). A review has
``parent_asin, rating, timestamp_ms`` and ``product`` (``title, brand, price, main_category``).

- A user appears in several categories and in several of the three files. So the files are merged and split again by
  the hash of the user id: 70 % train, 10 % dev, 20 % test. No user is in two splits.
- One query per user and category. There is no search text: the query is the category's name, its underscores as spaces.
  Its time is the held-out review's.
- History: the user's ``rating`` events of all categories and all three files that are strictly older than the query.
  The rest (reviews of other categories, written later) is left out and counted.
- Grade 1, gain 1: the held-out listing, whatever its rating: it was bought. Nothing else is judged.
- Candidates: the held-out listing and 19 listings of the same category that only other users reviewed, drawn by a
  hash, all in seeded random order. A query with fewer is counted; one without any is left out and counted. So a
  candidate that is in the history is always the target; this happens for one query.
- Listings have no reviews, rating or rating count: the reviews at hand were written at all times, so a
  listing would leak the future to an early query.
- A listing without a title has its id as title and is counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel

from eval.sets.histories import NEGATIVES, Milliseconds, Stars, before, moment, negatives, read_records
from eval.sets.tables import find_file
from genrank.data.dataset import Dataset, DatasetQuery, Grade
from genrank.data.trec import Qrels
from genrank.errors import DataFormatError, InputError
from genrank.experiment.splits import shuffled, split_of
from genrank.progress import track
from genrank.text.clean import clean
from genrank.types import Id, Interaction, Listing, Price, Query

SOURCE = (
    "A sample of Amazon Reviews 2023 (arXiv 2403.03952, McAuley lab, UCSD): research use. No search text: the query is "
    "the category. The held-out item is the only judgement, gain 1; candidates.trec is it and 19 other items of the "
    "category in a seeded random order."
)
GRADES = {0: Grade("not the item of the held-out review", 0.0), 1: Grade("the item of the held-out review", 1.0)}
_FILES = ("training", "validation", "test")


class _Product(BaseModel):
    title: str | None
    brand: str | None
    price: float | None
    main_category: str | None


class _Review(BaseModel):
    parent_asin: Id
    rating: Stars
    timestamp_ms: Milliseconds
    product: _Product


class _Row(BaseModel):
    user_id: Id
    category: Id
    history: list[_Review]
    heldout: _Review


@dataclass(frozen=True)
class _Asked:
    query: Query
    user: str
    category: str
    target: str
    time: datetime


def read(source: Path, notes: Counter[str], seed: int = 0) -> Dataset:
    """Read the set.

    Args:
        source: The folder with the three files.
        notes: Counts what was repaired or left out.
        seed: Seed of the other candidates, and of the order of all.

    Raises:
        DataFormatError: When a file does not have the expected format.
    """
    if not source.is_dir():
        raise DataFormatError(str(source), 0, "a folder with training, validation and test.jsonl", "no folder")
    listings: dict[str, Listing] = {}
    asked: dict[str, _Asked] = {}
    events: dict[str, list[Interaction]] = defaultdict(list)
    reviewed: dict[str, dict[str, None]] = defaultdict(dict)
    for name in _FILES:
        path = find_file(source, (f"{name}.jsonl", f"{name}.jsonl.gz"))
        for line, row in track(read_records(path, _Row), path.name):
            query_id = f"{row.user_id}-{row.category}"
            if query_id in asked:
                raise DataFormatError(str(path), line, "each user once in a category", f"{query_id!r} again")
            try:
                query = Query(clean(row.category.replace("_", " ")), query_id)
                for review in (*row.history, row.heldout):
                    if review.parent_asin not in listings:
                        listings[review.parent_asin] = _listing(review, notes)
                    listing = listings[review.parent_asin]
                    events[row.user_id].append(
                        Interaction("rating", listing, moment(review.timestamp_ms), review.rating)
                    )
                    reviewed[row.category][listing.listing_id] = None
            except InputError as error:
                raise DataFormatError(str(path), line, "a user's reviews", str(error)) from None
            time = moment(row.heldout.timestamp_ms)
            asked[query_id] = _Asked(query, row.user_id, row.category, row.heldout.parent_asin, time)
    pools = {category: tuple(ids) for category, ids in reviewed.items()}
    queries = []
    qrels: Qrels = {}
    candidates = {}
    for query_id, one in asked.items():
        own = {event.listing.listing_id for event in events[one.user]}
        others = negatives(query_id, [pools[one.category]], own, seed)
        if not others:
            notes["queries_without_other_candidates"] += 1
            continue
        notes["queries_with_fewer_candidates"] += len(others) < NEGATIVES
        past = [event for event in events[one.user] if (event.listing.listing_id, event.time) != (one.target, one.time)]
        history = before(one.time, past, notes)
        queries.append(DatasetQuery(query=one.query, split=split_of(one.user), history=history, time=one.time))
        qrels[query_id] = {one.target: 1}
        candidates[query_id] = [one.target, *others]
    return Dataset(
        name="amazon_user_history",
        source=SOURCE,
        grades=GRADES,
        listings=listings,
        queries=tuple(queries),
        qrels=qrels,
        candidates=shuffled(candidates, seed),
        first_stage="random",
    )


def _listing(review: _Review, notes: Counter[str]) -> Listing:
    product = review.product
    title, category = clean(product.title or ""), clean(product.main_category or "")
    notes["listings_without_title"] += not title
    return Listing(
        listing_id=review.parent_asin,
        title=title or review.parent_asin,
        brand=clean(product.brand or ""),
        category=(category,) if category else (),
        price=None if product.price is None else Price(product.price, "USD"),
    )
