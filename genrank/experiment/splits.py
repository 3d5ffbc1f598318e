"""The rules that all converters share: ids, splits, repeated judgements, the order of candidates."""

from __future__ import annotations

import dataclasses
import hashlib
import statistics
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from genrank.data.dataset import Dataset, DatasetQuery
from genrank.data.trec import Run
from genrank.errors import ConfigError
from genrank.text.clean import clean
from genrank.text.words import words


def with_dev(dataset: Dataset, share: float, seed: int) -> Dataset:
    """The dataset, with some of its training queries as dev where it has no dev split.

    Args:
        dataset: Any.
        share: Of the training queries; at least one becomes dev, and at least one stays.
        seed: The choice is by a hash of seed and query id.

    Raises:
        ConfigError: When there are fewer than two training queries to divide, or none at all.
    """
    train = [query.query.query_id for query in dataset.queries if query.split == "train"]
    has_dev = any(query.split == "dev" for query in dataset.queries)
    if len(train) < 2 - has_dev:
        raise ConfigError(f"dataset: {dataset.name} has {len(train)} training queries; one is needed, two without dev")
    if has_dev:
        return dataset
    count = min(max(round(share * len(train)), 1), len(train) - 1)
    dev = set(sorted(train, key=lambda query_id: digest(f"dev {seed}", query_id))[:count])
    queries = [
        dataclasses.replace(query, split="dev") if query.query.query_id in dev else query for query in dataset.queries
    ]
    return dataclasses.replace(dataset, queries=queries)


def digest(*parts: str) -> str:
    """SHA-256 of some texts as hex digits; the parts are kept apart, so ``("ab", "c")`` is not ``("a", "bc")``."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def query_digest(text: str) -> str:
    """SHA-256 of a query's text in NFC, without regard to letter case and white space at its ends."""
    return digest(unicodedata.normalize("NFC", text).strip().lower())


def query_identity(query: DatasetQuery) -> tuple[object, ...]:
    """Equal for queries with the same words, whatever their case, order and punctuation, and the same history.

    Accents count, and so do the signs inside numbers (`genrank.text.words.words`).
    """
    text = clean(query.query.text)
    found = sorted(words(text, cut_han=lambda run: [run], whole=True)) or [text]  # a query without words is its signs
    return tuple(found), tuple(interaction.listing.listing_id for interaction in query.history)


def query_id(text: str) -> str:
    """An id for a query that comes without one: ``q-`` and 16 hex digits of `query_digest`."""
    return f"q-{query_digest(text)[:16]}"


def fraction(text: str) -> float:
    """A fixed number of a query's text in 0 (included) to 1 (excluded), evenly spread over queries."""
    return int(query_digest(text)[:12], 16) / 16**12


def split_of(text: str) -> str:
    """The split of a query: 70 % ``train``, 10 % ``dev``, 20 % ``test``, by its `fraction`."""
    place = fraction(text)
    return "train" if place < 0.7 else "dev" if place < 0.8 else "test"


def middle_grade(grades: Sequence[int]) -> int:
    """The grade of a pair that was judged more than once: the median, of two middle ones the lower."""
    return statistics.median_low(grades)


def shuffled(qrels: Mapping[str, Iterable[str]], seed: int = 0) -> Run:
    """A substitute for a missing first stage: each query's judged listings in random order.

    The order comes from a hash of seed, query id and listing id, so it does not depend on the grades, and everyone gets
    the same 20 candidates for a seed. Scores are ``n, n - 1, .. 1``.

    Args:
        qrels: Judged listing ids by query id.
        seed: Another seed gives another order.
    """
    run: Run = {}
    for query, judged in qrels.items():
        ids = sorted(judged, key=lambda listing: digest(str(seed), query, listing))
        run[query] = {listing: float(len(ids) - i) for i, listing in enumerate(ids)}
    return run
