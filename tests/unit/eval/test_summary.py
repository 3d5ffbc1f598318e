import dataclasses
from collections.abc import Collection

import pytest

from eval.config import RunConfig
from eval.summary import Setting, calibration_figures, measure_system, outcomes
from eval.systems import SystemResult
from genrank.data.dataset import Dataset
from genrank.data.trec import Run
from genrank.types import Provenance, Ranking

CHANCES = {"q1": {"l1": 0.9, "l2": 0.5, "l3": 0.1}, "q2": {"l2": 0.3, "l3": 0.2, "l4": 0.25}}


def test_outcomes() -> None:
    assert outcomes("relevant", [2, 1, None, 0, 3], relevant=2) == [1, 0, 0, 0, 1]
    assert outcomes("first", [2, 1, None, 0, 3], relevant=2) == [0, 0, 0, 0, 1]
    # any of the best may come first, relevant or not
    assert outcomes("first", [1, 1, None, 0], relevant=2) == [1 / 2, 1 / 2, 0, 0]
    assert outcomes("first", [0, 0, 0], relevant=2) == [1 / 3] * 3
    assert outcomes("first", [None, None], relevant=2) == outcomes("relevant", [None, None], relevant=2) == [0, 0]


def test_the_first_of_equal_probabilities_is_the_answer() -> None:
    found = calibration_figures("first", [([0.5, 0.5], [1.0, 0.0])])
    assert (found["mean_outcome"], found["probabilities"]) == (1, 1)


def calibration(
    shop: Dataset, probabilities: Run | None, *provenances: Provenance, judged: Collection[str] = ("q1", "q2")
) -> object:
    config = RunConfig.model_validate({"dataset": "d", "systems": [{"type": "first-stage"}]})
    requests = [shop.request(query) for query in shop.queries[:2]]
    run = {query: {key: -float(i) for i, key in enumerate(ids)} for query, ids in CHANCES.items()}
    rankings = tuple(Ranking(query, (), provenance) for query, provenance in zip(run, provenances, strict=False))
    answer = SystemResult(run, 1.0, 0.5, rankings, probabilities)
    setting = Setting.of(config, shop, requests)
    setting = dataclasses.replace(setting, qrels={query: shop.qrels[query] for query in judged})
    return measure_system(answer, setting)[0]["calibration"]


def test_probabilities_of_being_relevant(shop: Dataset) -> None:
    # grade 2 is relevant: l1 of q1, l3 and l4 of q2; a bin each, but for 0.2 to 0.3, which holds 0.2 and 0.25
    error = ((1 - 0.9) + 0.5 + 0.1 + 0.3 + (1 + 1 - 0.2 - 0.25)) / 6
    expected = {
        "calibration_error": pytest.approx(error),
        "mean_probability": pytest.approx((0.9 + 0.5 + 0.1 + 0.3 + 0.2 + 0.25) / 6),
        "mean_outcome": pytest.approx(3 / 6),
        "probabilities": 6,
    }
    assert calibration(shop, CHANCES) == {"relevant": expected}
    inline = Provenance(decoding="inline", windows=4, passes=1)
    assert calibration(shop, CHANCES, inline, inline) == {"relevant": expected}


def test_probabilities_of_coming_first(shop: Dataset) -> None:
    first = Provenance(decoding="first-token", windows=1, passes=1)
    # the highest: l1 of q1, which is its best, and l2 of q2, which is not
    assert calibration(shop, CHANCES, first, first) == {
        "first": {
            "calibration_error": pytest.approx(((1 - 0.9) + 0.3) / 2),
            "mean_probability": pytest.approx((0.9 + 0.3) / 2),
            "mean_outcome": pytest.approx(1 / 2),
            "probabilities": 2,
        }
    }
    # nobody says which of two windows' first would come first
    found = calibration(shop, CHANCES, first, dataclasses.replace(first, windows=2))
    assert found == calibration(shop, CHANCES, first, first, judged=["q1"])
    twice = dataclasses.replace(first, windows=2, passes=2)
    assert calibration(shop, CHANCES, twice, twice) == calibration(shop, CHANCES, first, first)


def test_what_is_no_probability_has_no_error(shop: Dataset) -> None:
    listwise, inline = (Provenance(decoding=decoding, windows=1) for decoding in ("listwise", "inline"))
    fallback = dataclasses.replace(inline, outcome="fallback")
    assert calibration(shop, None) == {}
    assert calibration(shop, CHANCES, listwise, listwise) == {}
    assert calibration(shop, CHANCES, fallback, fallback) == {}
    assert calibration(shop, CHANCES, inline, inline, judged=[]) == {}
    one = calibration(shop, CHANCES, inline, fallback)
    assert one == calibration(shop, CHANCES, inline, inline, judged=["q1"])
