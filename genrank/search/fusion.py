"""Joins several rankings of the same listings into one."""

from __future__ import annotations

from collections.abc import Iterable

RRF_K = 60


def reciprocal_rank_fusion(rankings: Iterable[Iterable[str]], k: int = RRF_K) -> dict[str, float]:
    """``score(listing) = sum over rankings of 1 / (k + rank)`` (Cormack, Clarke and Büttcher, SIGIR 2009).

    Args:
        rankings: Listing ids, best first; no id twice in one ranking.
        k: How little the first ranks stand out; 60 in the paper.

    Returns:
        ``{listing_id: score}``, best first; ties in the order of the ids.
    """
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, listing_id in enumerate(ranking, start=1):
            scores[listing_id] = scores.get(listing_id, 0.0) + 1 / (k + rank)
    return dict(sorted(scores.items(), key=lambda item: (-item[1], item[0])))
