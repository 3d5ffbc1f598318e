from __future__ import annotations

import pytest

from genrank.search.fusion import reciprocal_rank_fusion


def test_each_ranking_adds_the_reciprocal_of_its_rank() -> None:
    scores = reciprocal_rank_fusion([["a", "b", "c"], ["c", "a"]])
    assert scores == pytest.approx({"a": 1 / 61 + 1 / 62, "c": 1 / 63 + 1 / 61, "b": 1 / 62})
    assert list(scores) == ["a", "c", "b"]


def test_ties_are_in_the_order_of_the_ids() -> None:
    assert list(reciprocal_rank_fusion([["b"], ["a"]])) == ["a", "b"]


def test_a_smaller_k_favours_the_first_ranks() -> None:
    rankings = [["a", "b"], ["c", "b"], ["d", "e", "f", "g", "b"]]
    assert next(iter(reciprocal_rank_fusion(rankings))) == "b"
    assert next(iter(reciprocal_rank_fusion(rankings, k=0))) == "b"
    assert next(iter(reciprocal_rank_fusion([["a", "b"], ["c", "d", "b"]], k=0))) == "a"


def test_no_ranking_gives_nothing() -> None:
    assert reciprocal_rank_fusion([]) == {}
    assert reciprocal_rank_fusion([[], []]) == {}
