"""Estimates of clicks: by hand, from a log, on files, and blended with a ranking."""

from __future__ import annotations

import json
import math
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genrank.blending import standardised
from genrank.errors import DataFormatError, InputError
from genrank.experiment.metrics import ndcg_of
from genrank.search.feedback.estimates import ClickEstimates, Looks
from genrank.search.pipeline import with_estimates
from genrank.types import Listing, Provenance, Query, RankedItem, Ranking

LOOKS = {
    "red dress": {"a": Looks(80.0, 8.0), "b": Looks(20.0, 8.0)},
    "Mug": {"a": Looks(100.0, 0.0), "m": Looks(200.0, 24.0)},
}  # 400 looks, 40 clicks: the mean is 0.1


def ranking_of(*ids: str, **provenance: Any) -> Ranking:
    items = (RankedItem(Listing(one, f"title {one}"), i + 1, 1 - i / 10, i + 1) for i, one in enumerate(ids))
    return Ranking("q", tuple(items), Provenance(**provenance))


def order(ranking: Ranking) -> list[str]:
    return [item.listing_id for item in ranking]


def test_estimates_are_drawn_to_the_listings_mean_and_that_to_the_mean_of_all() -> None:
    estimates = ClickEstimates(LOOKS, prior=20)
    assert estimates.mean == 0.1
    listing_a = (8 + 20 * 0.1) / (180 + 20)
    assert estimates.estimate("red dress", "a") == pytest.approx((8 + 20 * listing_a) / (80 + 20))
    assert estimates.estimate("new query", "a") == pytest.approx(listing_a)
    assert estimates.estimate("red dress", "new") == 0.1


def test_queries_are_the_same_in_any_case_and_spacing() -> None:
    estimates = ClickEstimates({"Red dress": {"a": Looks(5, 1)}, "red  Dress": {"a": Looks(5, 1)}})
    assert estimates.estimate(" RED DRESS", "a") == ClickEstimates({"red dress": {"a": Looks(10, 2)}}).estimate(
        "red dress", "a"
    )


def test_standard_scores_count_as_much_as_is_known() -> None:
    estimates = ClickEstimates(LOOKS, prior=20)
    a, b = (math.log(estimates.estimate("red dress", one)) for one in "ab")
    z = standardised([a, b])
    assert z == pytest.approx([-1, 1])
    found = estimates.standard_scores("red dress", ["new", "a", "m", "b"])
    assert found == pytest.approx([0, -80 / 100, 0, 20 / 40])


@pytest.mark.parametrize(
    "looks",
    [{}, {"red dress": {"a": Looks(0.0, 0.0), "b": Looks(0.0, 0.0)}}, {"red dress": {"a": Looks(9.0, 0.0)}}],
    ids=["empty", "no look", "no click"],
)
def test_without_data_all_scores_are_0(looks: Any) -> None:
    estimates = ClickEstimates(looks)
    assert estimates.standard_scores("red dress", ["a", "b"]) == [0.0, 0.0]


def test_a_ranking_is_blended() -> None:
    estimates = ClickEstimates(LOOKS, prior=20)
    ranking = ranking_of("a", "b", "m", decoding="listwise", calibration="fitted")
    assert order(with_estimates(ranking, Query("red dress"), estimates, 0.5)) == ["b", "a", "m"]
    found = with_estimates(ranking, Query("red dress"), estimates, 0.0)
    assert order(found) == ["b", "m", "a"]
    assert [item.rank for item in found] == [1, 2, 3]
    assert [item.source_rank for item in found] == [2, 3, 1]
    assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)
    assert (found.provenance.estimates, found.provenance.calibration) == (0.0, None)
    assert order(with_estimates(ranking, Query("red dress"), estimates, 1.0)) == ["a", "b", "m"]


def test_a_query_without_data_and_a_fallback_stay_as_they_are() -> None:
    estimates = ClickEstimates(LOOKS)
    ranking = ranking_of("a", "b", "m", decoding="pointwise")
    assert with_estimates(ranking, Query("blue dress"), estimates, 0.0) is ranking
    fallback = ranking_of("a", "b", outcome="fallback")
    assert with_estimates(fallback, Query("red dress"), estimates, 0.0) is fallback


def test_a_file_holds_the_same_estimates(tmp_path: Path) -> None:
    estimates = ClickEstimates(LOOKS | {"连衣裙": {"a": Looks(1.5, 1.0)}}, prior=7)
    estimates.save(tmp_path / "clicks.json")
    again = ClickEstimates.load(tmp_path / "clicks.json")
    for query in ("red dress", "mug", "连衣裙", "other"):
        assert [again.estimate(query, one) for one in "abm"] == [estimates.estimate(query, one) for one in "abm"]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 2}', '{"format": 1, "prior": 1, "looks": {"q": {"a": [1]}}}',
     '{"format": 1, "prior": 0, "looks": {}}', '{"format": 1, "prior": 1, "looks": {"q": {"a": [-1, 0]}}}'],
)  # fmt: skip
def test_a_wrong_file_is_told(text: str, tmp_path: Path) -> None:
    path = tmp_path / "clicks.json"
    path.write_text(text)
    with pytest.raises(DataFormatError, match=r"clicks\.json: expected click estimates of format 1"):
        ClickEstimates.load(path)


@pytest.mark.parametrize(("looks", "prior"), [({}, 0.0), ({}, math.inf), ({"q": {"a": Looks(math.nan, 0)}}, 1.0)])
def test_wrong_numbers_are_refused(looks: Any, prior: float) -> None:
    with pytest.raises(InputError):
        ClickEstimates(looks, prior=prior)


def test_importing_needs_neither_pyarrow_nor_duckdb() -> None:
    code = "import sys, genrank.search.feedback.estimates; print({'pyarrow', 'duckdb', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_log_is_corrected_for_position(tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    from genrank.search.feedback.log import FeedbackEvent, FeedbackLog, Shown

    log = FeedbackLog(tmp_path)
    lists = [Shown(f"r{i}", ["a", "b"], "Red dress") for i in range(10)]
    events = [FeedbackEvent(f"r{i}", "a", "click") for i in range(4)]
    events += [FeedbackEvent(f"r{i}", "b", "click") for i in range(2)] + [FeedbackEvent("r0", "b", "purchase")]
    log.write(lists, events)
    estimates = ClickEstimates.of(log, [1.0, 0.25], prior=1e-9)
    assert estimates.estimate("red dress", "a") == pytest.approx(4 / 10)
    assert estimates.estimate("red dress", "b") == pytest.approx(2 / 2.5)
    bought = ClickEstimates.of(log, [1.0, 0.25], worth={"purchase": 1}, prior=1e-9)
    assert bought.estimate("red dress", "b") == pytest.approx(1 / 2.5)
    both = ClickEstimates.of(log, [1.0, 0.25], worth={"click": 1, "purchase": 10}, prior=1e-9)
    assert both.estimate("red dress", "b") == pytest.approx((2 + 10) / 2.5)
    wrong: list[Any] = [{}, {"click": -1}]
    for worth in wrong:
        with pytest.raises(InputError, match="worth"):
            ClickEstimates.of(log, [1.0], worth=worth)
    with pytest.raises(InputError, match="propensities: the log has none"):
        ClickEstimates.of(log)


def test_simulated_shoppers_improve_the_first_stage() -> None:
    """Clicks that were drawn from the true grades, a few looks each, raise what is good."""
    from genrank.data.dataset import sample_shop

    shop = sample_shop()
    chance = random.Random(0)
    requests = list({query.query.text: shop.request(query) for query in shop.queries}.values())
    looks = {}
    for request in requests[::2]:  # nobody asked the others
        grades = shop.qrels[request.query.query_id]
        looks[request.query.text] = {
            one.listing.listing_id: Looks(
                40 / place,
                sum(chance.random() < 0.1 + 0.2 * grades.get(one.listing.listing_id, 0) for _ in range(40)) / place,
            )
            for place, one in enumerate(request.candidates, start=1)
        }
    estimates = ClickEstimates(looks)
    worth: dict[bool, dict[float, list[float]]] = {True: {}, False: {}}
    for weight in (1.0, 0.5):
        for place, request in enumerate(requests):
            items = tuple(
                RankedItem(one.listing, i + 1, 1 - i / len(request.candidates), i + 1)
                for i, one in enumerate(request.candidates)
            )
            found = with_estimates(Ranking(request.query.query_id, items), request.query, estimates, weight)
            value = ndcg_of(shop, [request], [order(found)])
            worth[place % 2 == 0].setdefault(weight, []).append(value)
    assert worth[False][0.5] == worth[False][1.0]
    assert statistics.fmean(worth[True][0.5]) > statistics.fmean(worth[True][1.0]) + 0.02


def test_what_is_saved_is_json(tmp_path: Path) -> None:
    ClickEstimates(LOOKS, prior=3).save(tmp_path / "clicks.json")
    fields = json.loads((tmp_path / "clicks.json").read_text(encoding="utf-8"))
    assert fields["looks"]["mug"] == {"a": [100.0, 0.0], "m": [200.0, 24.0]}
