from __future__ import annotations

from eval.bench import WINDOW, measure_evaluation, measure_overhead, windows


def test_windows_are_full_and_differ() -> None:
    requests = windows(3)
    assert [len(request.candidates) for request in requests] == [WINDOW] * 3
    first, second = ({c.listing.listing_id for c in request.candidates} for request in requests[:2])
    assert not first & second


def test_the_reranker_adds_less_than_a_millisecond_to_a_window() -> None:
    # the best of three medians: a busy machine must not fail it
    assert min(measure_overhead(rounds=50)["own_ms"] for _ in range(3)) < 1.0


def test_a_thousand_queries_of_a_hundred_candidates_are_measured_in_seconds() -> None:
    figures = measure_evaluation(1000, 100)
    assert (figures["queries"], figures["candidates"]) == (1000, 100)
    assert figures["metrics_s"] < figures["all_s"] < 20  # a tenth of the size, on a busy machine too
    assert figures["peak_mib"] >= figures["data_mib"]
