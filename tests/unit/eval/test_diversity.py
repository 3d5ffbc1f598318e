import math
import random
import time
from typing import Any

import pytest

from eval.diversity import diversity, exposure
from genrank.errors import InputError
from genrank.types import Listing

SHOES, HATS = ("Clothes", "Shoes"), ("Clothes", "Hats")
LISTINGS = {
    "a": Listing("a", "red shoe", brand="Acme", category=SHOES, seller_id="s1"),
    "b": Listing("b", "red shoe", brand="Acme", category=SHOES),
    "c": Listing("c", "blue hat", brand="Bond", category=HATS),
    "d": Listing("d", "red hat", brand="Bond"),
    "e": Listing("e", "!!!"),
    "f": Listing("f", "???"),
}


TWO, TEN = (sum(0.5 ** (i - 1) / i for i in range(1, k + 1)) for k in (2, 10))


def falling(ids: Any) -> dict[str, float]:
    return {key: float(len(ids) - i) for i, key in enumerate(ids)}


def test_alpha_ndcg_and_err_ia() -> None:
    found = diversity({"q": falling("abc")}, LISTINGS, {"q": {"a": 2, "b": 1, "c": 2}}, 1)
    dcg = 1 / math.log2(2) + 0.5 / math.log2(3) + 1 / math.log2(4)
    ideal = 1 / math.log2(2) + 1 / math.log2(3) + 0.5 / math.log2(4)
    assert found["alpha-nDCG@10"] == pytest.approx(dcg / ideal, abs=1e-9)
    assert found["ERR-IA@10"] == pytest.approx((1 / 1 + 0.5 / 2 + 1 / 3) / 2 / TEN, abs=1e-9)
    harsher = diversity({"q": falling("abc")}, LISTINGS, {"q": {"a": 2, "b": 1, "c": 2}}, 1, alpha=0.9)
    assert harsher["alpha-nDCG@10"] == pytest.approx(
        (1 + 0.1 / math.log2(3) + 1 / 2) / (1 + 1 / math.log2(3) + 0.1 / 2), abs=1e-9
    )
    first = diversity({"q": falling("bac")}, LISTINGS, {"q": {"a": 2, "b": 1, "c": 2}}, 2, k=1)
    assert first["alpha-nDCG@1"] == 0.0
    second = diversity({"q": falling("abc")}, LISTINGS, {"q": {"a": 2, "b": 1, "c": 2}}, 1, k=2)
    assert second["ERR-IA@2"] == pytest.approx((1 + 0.5 / 2) / 2 / TWO, abs=1e-9)


def test_the_brand_stands_in_for_a_missing_category(capsys: pytest.CaptureFixture[str]) -> None:
    varied = diversity({"q": falling("cda")}, LISTINGS, {"q": {"c": 1, "d": 1}}, 1)
    assert varied["alpha-nDCG@10"] == pytest.approx(1.0)
    assert (varied["queries without subtopic"], varied["queries with one subtopic"]) == (0, 0)
    same = diversity({"q": falling("ab")}, LISTINGS, {"q": {"a": 1, "b": 1}}, 1)
    assert same["queries with one subtopic"] == 1
    assert capsys.readouterr().err == ""
    assert same["ERR-IA@10"] == pytest.approx((1 + 0.5 / 2) / TEN, abs=1e-9)


def test_a_brand_and_a_category_of_one_name_are_two() -> None:
    listings = {"x": Listing("x", "x", brand="Shoes"), "y": Listing("y", "y", category=("Shoes",))}
    found = diversity({"q": falling("xy")}, listings, {"q": {"x": 1, "y": 1}}, 1)
    assert found["alpha-nDCG@10"] == pytest.approx(1.0)
    assert found["ERR-IA@10"] == pytest.approx((1 + 1 / 2) / 2 / TEN, abs=1e-9)


def test_queries_without_a_subtopic_count_nothing_and_are_counted() -> None:
    run = {"q": falling("ac"), "r": falling("ac"), "s": falling("ef")}
    qrels = {"q": {"a": 1, "c": 1}, "s": {"e": 1}}
    found = diversity(run, LISTINGS, qrels, 1)
    assert found["queries without subtopic"] == 2
    assert found["alpha-nDCG@10"] == pytest.approx(1 / 3)
    nothing = diversity(run, LISTINGS, {}, 1)
    assert (nothing["alpha-nDCG@10"], nothing["ERR-IA@10"], nothing["queries without subtopic"]) == (0.0, 0.0, 3)


def test_intra_list_distance() -> None:
    found = diversity({"q": falling("acd")}, LISTINGS, {}, 1)
    # {red, shoe}, {blue, hat}, {red, hat}
    assert found["intra-list distance@10"] == pytest.approx((1 + (1 - 1 / 3) + (1 - 1 / 3)) / 3)
    assert diversity({"q": falling("abc")}, LISTINGS, {}, 1, k=2)["intra-list distance@2"] == 0.0
    assert diversity({"q": falling("ef")}, LISTINGS, {}, 1) == {"intra-list distance@10": 0.0}
    assert diversity({"q": falling("e")}, LISTINGS, {}, 1) == {}
    both = diversity({"q": falling("e"), "r": falling("ac")}, LISTINGS, {}, 1)
    assert both["intra-list distance@10"] == 1.0


def test_category_coverage() -> None:
    run = {"q": falling("abc"), "r": falling("dca"), "s": falling("ef")}
    # SHOES of the two; none, then HATS of the two; no category at all
    assert diversity(run, LISTINGS, {}, 1, k=2)["category coverage@2"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert diversity(run, LISTINGS, {}, 1, k=1)["category coverage@1"] == pytest.approx((1 / 2 + 0) / 2)
    assert diversity(run, LISTINGS, {}, 1)["category coverage@10"] == 1.0


def test_exposure_shares() -> None:
    found = exposure({"q": falling("acde")}, LISTINGS)
    weights = [1 / math.log2(rank + 1) for rank in (1, 2, 3, 4)]
    total = sum(weights)
    brand = found["brand"]
    assert brand["shares"] == pytest.approx(
        {"Acme": weights[0] / total, "Bond": (weights[1] + weights[2]) / total, "": weights[3] / total}
    )
    assert list(brand["shares"]) == ["Bond", "Acme", ""]
    assert (brand["rest"], brand["names"], brand["listings_without"]) == (0.0, 2, 1)
    x, y = weights[0], weights[1] + weights[2]
    assert brand["gini"] == pytest.approx(abs(x - y) / (2 * (x + y)))
    assert found["seller"]["shares"] == pytest.approx({"s1": weights[0] / total, "": 1 - weights[0] / total})
    assert found["seller"]["gini"] == 0.0


def test_exposure_of_many_names() -> None:
    listings = {f"d{i}": Listing(f"d{i}", "x", brand=f"b{i}") for i in range(30)}
    brand = exposure({"q": falling(list(listings))}, listings)["brand"]
    assert list(brand["shares"]) == [f"b{i}" for i in range(10)]
    assert sum(brand["shares"].values()) + brand["rest"] == pytest.approx(1.0)
    assert (brand["names"], brand["listings_without"]) == (30, 0)
    assert 0 < brand["gini"] < 1


def test_no_name_no_part() -> None:
    assert exposure({"q": falling("ef")}, LISTINGS) == {"brand": {}, "seller": {}}


def test_hostile_names_are_data() -> None:
    odd = "</script>\u2028 Q0 \x00 \ud83d"
    listings = {f"d {odd}{i}": Listing(f"d{i}", "x y", brand=f"{odd}{i}") for i in range(3)}
    run = {f"q 0 {odd}": falling(list(listings))}
    qrels = {query: dict.fromkeys(scores, 1) for query, scores in run.items()}
    assert diversity(run, listings, qrels, 1)["alpha-nDCG@10"] == pytest.approx(1.0)
    assert set(exposure(run, listings)["brand"]["shares"]) == {f"{odd}{i}" for i in range(3)}


@pytest.mark.parametrize(
    ("run", "options", "words"),
    [
        ({}, {}, "run: no query"),
        ({"q": {"z": 1.0}}, {}, "query 'q': listing 'z' is unknown"),
        ({"q": {"a": 1.0}}, {"k": 0}, "k: must be 1 or more"),
        ({"q": {"a": 1.0}}, {"alpha": 1.5}, "alpha: must be 0 to 1"),
    ],
)
def test_bad_calls_are_named(run: Any, options: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        diversity(run, LISTINGS, {}, 1, **options)
    if not options:
        with pytest.raises(InputError, match=words):
            exposure(run, LISTINGS)


def test_equal_runs_in_another_order_are_worth_the_same() -> None:
    rng = random.Random(0)
    run = {f"q{i}": {key: rng.random() for key in "abcdef"} for i in range(20)}
    qrels = {query: {key: rng.randrange(2) for key in "abcdef"} for query in run}
    mixed = {query: dict(rng.sample(list(run[query].items()), 6)) for query in rng.sample(list(run), 20)}
    assert diversity(mixed, LISTINGS, qrels, 1) == diversity(run, LISTINGS, qrels, 1)
    assert exposure(mixed, LISTINGS) == exposure(run, LISTINGS)


def test_a_big_shop_is_measured_in_time() -> None:
    listings = {f"d{i}": Listing(f"d{i}", f"thing {i % 50}", brand=f"b{i % 13}") for i in range(50_000)}
    run = {f"q{i}": {f"d{(37 * i + j) % 50_000}": float(j) for j in range(50)} for i in range(500)}
    started = time.monotonic()
    diversity(run, listings, {query: dict.fromkeys(scores, 1) for query, scores in run.items()}, 1)
    exposure(run, listings)
    assert time.monotonic() - started < 20
