"""The rules that all converters share: ids, splits, repeated judgements, the order of candidates."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterable, Mapping, Sequence

from genrank.dataset import Run


def digest(*parts: str) -> str:
    """SHA-256 of some texts as hex digits; the parts are kept apart, so ``("ab", "c")`` is not ``("a", "bc")``."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def query_digest(text: str) -> str:
    """SHA-256 of a query's text, white space at its ends and letter case aside: the same query, the same split."""
    return digest(text.strip().lower())


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
    """A stand-in for the first stage of a set that has none: each query's judged listings in random order.

    The order comes from a hash of seed, query id and listing id, so it knows nothing of the grades, and the first
    20 of it are "20 candidates with a fixed seed" for everyone. Scores are ``n, n - 1, .. 1``.

    Args:
        qrels: Judged listing ids by query id.
        seed: Another seed gives another order.
    """
    run: Run = {}
    for query, judged in qrels.items():
        ids = sorted(judged, key=lambda listing: digest(str(seed), query, listing))
        run[query] = {listing: float(len(ids) - i) for i, listing in enumerate(ids)}
    return run
