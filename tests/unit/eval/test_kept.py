from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")

from eval import kept
from genrank import Candidate, Listing, Query, Request
from tests.kept_rig import make_engine, make_prompt, make_reranker, save_bytes_model

LISTINGS = [Listing(f"l{i}", f"Mug {i}") for i in range(6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_bytes_model(tmp_path_factory.mktemp("bytes"))


def test_memory_and_the_change_that_int8_makes(folder: str) -> None:
    engine = make_engine(folder)
    requests = [Request(Query("red mug"), tuple(Candidate(listing) for listing in LISTINGS))]
    found = kept.measure_memory(folder, engine, make_reranker(engine), LISTINGS, requests)
    row = 2 * 2 * 2 * 8
    assert found["bytes_a_listing"] == len("Mug 1\nS:") * row * 4, "the lead is not counted"
    assert found["int8_bytes_a_listing"] == len("Mug 1\nS:") * (row + 4 * 8)
    assert 0.5 < found["int8_tau"][1] <= found["int8_tau"][0] <= 1
    assert 0 < found["int8_log_odds"][0] <= found["int8_log_odds"][1] < 0.5


def test_a_stream_finds_more_with_more_memory(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "PROMPT", make_prompt())
    ids = [listing.listing_id for listing in LISTINGS]
    queries = [Query(f"mug {i}") for i in range(4)]

    def search(query: str, count: int) -> Any:
        return (ids[int(query[-1]) :] + ids)[:count]

    one = 2 * 2 * 2 * 8 * 4 * 8
    found = kept.measure_stream(
        folder, LISTINGS, queries, search, budgets=[one, 3 * one, 10 * one], length=12, candidates=2
    )
    rates = [row["hit_rate"] for row in found["budgets"]]
    assert rates == sorted(rates)
    assert rates[0] < 0.6 < rates[2] == pytest.approx((24 - found["distinct_listings"]) / 24, abs=1e-3)


def test_percentiles() -> None:
    assert kept.percentiles([0.001 * i for i in range(1, 101)]) == [51.0, 96.0]
