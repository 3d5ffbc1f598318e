from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from eval.bench import (
    WINDOW,
    long_requests,
    main,
    measure_evaluation,
    measure_overhead,
    measure_strategies,
    windows,
)
from genrank.data.dataset import Dataset
from genrank.testing import OracleEngine
from genrank.types import Listing


def test_windows_are_full_and_differ() -> None:
    requests = windows(3)
    assert [len(request.candidates) for request in requests] == [WINDOW] * 3
    first, second = ({c.listing.listing_id for c in request.candidates} for request in requests[:2])
    assert not first & second


def test_the_reranker_costs_little_beside_a_tokenizer_of_plain_python() -> None:
    # machines differ threefold in milliseconds, these ratios do not
    tries = (measure_overhead(rounds=50) for _ in range(20))
    most = {"pointwise_ms": 6.5, "inline_ms": 4.5}
    assert any(all(one[name] < ratio * one["tokenizer_ms"] for name, ratio in most.items()) for one in tries)


def test_a_thousand_queries_of_a_hundred_candidates_are_measured_in_seconds() -> None:
    figures = measure_evaluation(1000, 100)
    assert (figures["queries"], figures["candidates"]) == (1000, 100)
    assert figures["metrics_s"] < figures["all_s"] < 20  # a tenth of the size, on a busy machine too
    assert figures["peak_mib"] >= figures["data_mib"]


def test_long_lists_are_the_best_of_the_whole_catalogue_titles_only(shop: Dataset) -> None:
    listings = {key: dataclasses.replace(listing, brand="Lux") for key, listing in shop.listings.items()}
    (request,) = long_requests(dataclasses.replace(shop, listings=listings), "train", 10, 3)
    assert request.query.text == "oil"
    assert request.candidates[0].listing == Listing("l5", "lamp oil")
    assert len(request.candidates) == 3


def test_a_tournament_costs_less_than_sliding_and_finds_the_same_top(shop: Dataset) -> None:
    listings = {f"l{i}": Listing(f"l{i}", "red lamp") for i in range(100)}
    grades = {"l7": 2, "l50": 2, "l99": 1}
    large = dataclasses.replace(shop, listings=listings, qrels={"q1": grades}, queries=shop.queries[:1])
    requests = long_requests(large, "test", 1, 100)
    result = measure_strategies(large, requests, OracleEngine({key: float(g) for key, g in grades.items()}), 2)
    assert result["sliding"]["windows"] == (100 - 20) / 10 + 1
    assert result["tournament"]["windows"] == 100 / 20 + 1
    assert result["tournament"]["prompt_tokens"] < result["sliding"]["prompt_tokens"]
    assert result["sliding"]["ndcg@10"] == result["tournament"]["ndcg@10"] == 1.0
    assert len(result["times_faster"]) == 3


@pytest.mark.parametrize("part", ["peers", "strategies"])
def test_parts_that_need_a_dataset_say_so(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", part]) == 2
    assert capsys.readouterr().err == f"error: dataset: {part} needs a dataset folder\n"


def test_too_few_candidates_are_a_wrong_call(shop: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop.save(tmp_path)
    assert main(["--only", "peers", "--dataset", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "has 20 candidates" in err
