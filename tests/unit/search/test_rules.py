from __future__ import annotations

import dataclasses
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from genrank.errors import ConfigError, InputError
from genrank.search.rules import AtLeast, AtMost, Conflict, Rules, apply_rules, load_rules, rule_costs
from genrank.types import Listing, RankedItem, Ranking


def make_ranking(listings: list[Listing], scores: list[float] | None = None) -> Ranking:
    found = scores or [1 - i / 10 for i in range(len(listings))]
    return Ranking("q", tuple(RankedItem(one, i + 1, found[i], i + 1) for i, one in enumerate(listings)))


def by_brand(brands: str) -> Ranking:
    """Listings a, b, c .. with these brands; - is none."""
    names = "abcdefghijkl"
    pairs = zip(names, brands, strict=False)
    return make_ranking([Listing(key, "x", brand=brand.replace("-", "")) for key, brand in pairs])


def ids(ranking: Ranking) -> str:
    return "".join(item.listing_id for item in ranking)


def test_without_rules_the_ranking_stays_as_it_is() -> None:
    ranking = by_brand("AAB")
    ruled, report = apply_rules(ranking, Rules())
    assert ruled is ranking
    assert (report.rules, report.moved, report.conflicts) == ((), 0, ())


def test_at_most_so_many_of_a_brand() -> None:
    ruled, report = apply_rules(by_brand("AAABB-A"), Rules(at_most=(AtMost(by="brand", most=1, top=3),)))
    assert ids(ruled) == "adfbceg", "those without a brand are not capped"
    assert report.conflicts == ()
    assert report.moved == 5
    assert ruled.provenance.rules == ("at_most[0]",)
    only = Rules(at_most=(AtMost(by="brand", most=1, top=3, values=("B",)),))
    assert ids(apply_rules(by_brand("BBAAA"), only)[0]) == "acdbe"


def test_a_cap_that_cannot_be_kept_is_reported() -> None:
    ruled, report = apply_rules(by_brand("AAB"), Rules(at_most=(AtMost("brand", 1, 3),)))
    assert ids(ruled) == "acb"
    says = "2 listings of brand 'A' in the top 3, at most 1 wanted: no other listing was left that keeps all caps"
    assert report.conflicts == (Conflict("at_most[0]", says),)
    _, report = apply_rules(by_brand("AABC"), Rules(at_most=(AtMost("brand", 1, 2),), pinned={"a": 1, "b": 2}))
    assert [conflict.why.partition(": ")[2] for conflict in report.conflicts] == ["they are pinned"]


def test_categories_are_capped_by_the_whole_path_and_attributes_by_their_value() -> None:
    listings = [
        Listing("a", "x", category=("Women", "Dresses"), attributes={"colour": "red"}),
        Listing("b", "x", category=("Women", "Skirts"), attributes={"colour": "red"}),
        Listing("c", "x", category=("Women", "Dresses"), attributes={"colour": "blue"}),
        Listing("d", "x", category=("Men",)),
    ]
    ranking = make_ranking(listings)
    assert ids(apply_rules(ranking, Rules(at_most=(AtMost("category", 1, 3),)))[0]) == "abdc"
    assert ids(apply_rules(ranking, Rules(at_most=(AtMost("category", 1, 2, ("Women",)),)))[0]) == "adbc"
    assert ids(apply_rules(ranking, Rules(at_most=(AtMost("attributes.colour", 1, 2),)))[0]) == "acbd"
    assert ids(apply_rules(ranking, Rules(at_least=(AtLeast("category", 1, 1, ("Men",)),)))[0]) == "dabc"
    assert ids(apply_rules(ranking, Rules(at_least=(AtLeast("attributes.colour", 3, 3),)))[0]) == "abcd"


def test_floors_take_the_latest_ranks_that_keep_them() -> None:
    rules = Rules(at_least=(AtLeast("brand", 2, 4, ("B", "C")),))
    ruled, report = apply_rules(by_brand("AAAABAC"), rules)
    assert ids(ruled) == "abegcdf"
    assert report.conflicts == ()
    nested = Rules(at_least=(AtLeast("brand", 1, 2, ("C",)), AtLeast("brand", 2, 3, ("B", "C"))))
    assert ids(apply_rules(by_brand("AABBC"), nested)[0]) == "aecbd"
    both = Rules(at_least=(AtLeast("brand", 1, 1, ("B", "C")), AtLeast("brand", 1, 1, ("C", "D"))))
    assert ids(apply_rules(by_brand("ABC"), both)[0]) == "cab", "one listing meets both floors"


def test_a_floor_that_cannot_be_met_is_reported() -> None:
    ruled, report = apply_rules(by_brand("AAB"), Rules(at_least=(AtLeast("brand", 2, 2, ("B",)),)))
    assert ids(ruled) == "acb"
    says = "1 listings of brand 'B' in the top 2, at least 2 wanted: the ranking holds 1"
    assert report.conflicts == (Conflict("at_least[0]", says),)
    rules = Rules(at_most=(AtMost("brand", 1, 3),), at_least=(AtLeast("brand", 2, 3, ("B",)),))
    ruled, report = apply_rules(by_brand("ACBBDE"), rules)
    assert [item.listing.brand for item in ruled[:3]].count("B") == 1, "caps come first"
    assert [conflict.why.partition(": ")[2] for conflict in report.conflicts] == ["the rules before it come first"]


def test_stock_and_burying() -> None:
    stock = {"a": False, "b": None, "c": True, "d": False}
    ranking = make_ranking([Listing(key, "x", in_stock=there) for key, there in stock.items()])
    ruled, report = apply_rules(ranking, Rules(in_stock=True, buried=("b", "z")))
    assert ids(ruled) == "cadb"
    assert (report.out_of_stock, report.buried, report.pinned, report.absent) == (2, 1, 0, ())
    pinned, report = apply_rules(ranking, Rules(in_stock=True, pinned={"d": 1, "z": 3}))
    assert ids(pinned) == "dbca"
    assert (report.pinned, report.absent, report.out_of_stock) == (1, ("z",), 1)
    assert report.conflicts == (Conflict("in_stock", "'d' is out of stock and stays at its pinned rank 1"),)


def test_of_two_pins_the_first_one_wins() -> None:
    ruled, report = apply_rules(by_brand("-----"), Rules(pinned={"e": 2, "d": 2, "c": 9, "b": 5}))
    assert ids(ruled) == "aedbc"
    assert [conflict.why for conflict in report.conflicts] == [
        "'d' is at rank 3 instead of 2: an earlier pin has that rank",
        "'c' is at rank 5 instead of 9: the ranking has 5 items",
        "'b' is at rank 4 instead of 5: an earlier pin has that rank",
    ]


def test_scores_never_rise_and_reasons_stay() -> None:
    ranking = by_brand("ABC")
    ranking = dataclasses.replace(ranking, items=(dataclasses.replace(ranking[0], reason="Good."), *ranking[1:]))
    ruled, _ = apply_rules(ranking, Rules(pinned={"c": 1}))
    assert [(item.rank, item.score, item.source_rank, item.reason) for item in ruled] == [
        (1, 0.8, 3, None),
        (2, 0.8, 1, "Good."),
        (3, 0.8, 2, None),
    ]


def test_costs_by_judgements_and_by_scores() -> None:
    ranking = by_brand("AAB")
    rules = Rules(pinned={"c": 1}, at_most=(AtMost("brand", 1, 2),))
    costs = rule_costs(ranking, rules, gains={"a": 3, "b": 1}, k=2)
    ideal = 3 + 1 / math.log2(3)
    assert costs.before == 1
    assert costs.alone == {
        "pinned": pytest.approx(1 - 3 / math.log2(3) / ideal),
        "at_most[0]": pytest.approx(1 - 3 / ideal),
    }
    assert costs.after == pytest.approx(3 / math.log2(3) / ideal)
    helpful = rule_costs(ranking, Rules(pinned={"c": 1}), gains={"c": 1}, k=2)
    assert (helpful.before, helpful.after, helpful.alone["pinned"]) == (0, 1, -1), "a negative cost is a gain"
    scored = rule_costs(ranking, rules)
    assert scored.before == 1
    assert 0 < 1 - scored.after < 0.1
    assert rule_costs(ranking, rules, gains={}).before == 0


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"pinned": {"a": 0}}, "pinned.a", "greater than or equal to 1, got 0"),
    ({"pinned": {"a b": 1}}, "pinned.a b.[key]", "without white space"),
    ({"pinned": {"a": 1}, "buried": ["a"]}, "buried", "'a' is pinned too; remove it"),
    ({"at_most": [{"by": "colour", "most": 1, "top": 3}]}, "at_most[0].by", "attributes.NAME, got 'colour'"),
    ({"at_most": [{"by": "brand", "most": -1, "top": 3}]}, "at_most[0].most", "got -1"),
    ({"at_most": [{"by": "brand", "most": 1}]}, "at_most[0].top", "required"),
    ({"at_least": [{"by": "brand", "least": 1, "top": 2.5}]}, "at_least[0].top", "got 2.5"),
    ({"in_stok": True}, "in_stok", "got True"),
    ({"in_stock": "maybe"}, "in_stock", "got 'maybe'"),
]


@pytest.mark.parametrize(("fields", "field", "says"), WRONG)
def test_wrong_rules_are_named(fields: dict[str, Any], field: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says.replace("[", r"\[")) as caught:
        Rules(**fields)
    assert caught.value.field == field
    file = tmp_path / "rules.json"
    file.write_text(json.dumps(fields))
    with pytest.raises(ConfigError, match=r"rules\.json"):
        load_rules(file)


def test_other_arguments_are_checked() -> None:
    ranking = by_brand("AB")
    with pytest.raises(InputError, match="must be Rules, got dict"):
        apply_rules(ranking, {"in_stock": True})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="must be Ranking, got list"):
        apply_rules([], Rules())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least 1"):
        rule_costs(ranking, Rules(), k=0)
    with pytest.raises(InputError, match="at least 0, got -1") as caught:
        rule_costs(ranking, Rules(), gains={"b": -1})
    assert caught.value.field == "gains['b']"


TOML = """
in_stock = true
buried = ["p9"]

[pinned]
p3 = 1

[[at_most]]
by = "brand"
most = 2
top = 10

[[at_least]]
by = "seller"
values = ["fresh-shop"]
least = 1
top = 5
"""


def test_rules_are_read_from_files(tmp_path: Path) -> None:
    rules = Rules(
        in_stock=True,
        buried=("p9",),
        pinned={"p3": 1},
        at_most=(AtMost("brand", 2, 10),),
        at_least=(AtLeast("seller", 1, 5, ("fresh-shop",)),),
    )
    (tmp_path / "rules.toml").write_text(TOML)
    assert load_rules(tmp_path / "rules.toml") == rules
    (tmp_path / "rules.json").write_text(json.dumps({"pinned": {"p3": 1}}))
    assert load_rules(tmp_path / "rules.json") == Rules(pinned={"p3": 1})


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("rules.yaml", "", "rules are a .toml or .json file"),
        ("none.toml", None, "No such file"),
        ("rules.toml", "in_stock = maybe", "not TOML"),
        ("rules.json", "[1]", "must be an object"),
        ("rules.json", "[" * 100_000, "not JSON"),
    ],
)
def test_broken_files_are_named(name: str, text: str | None, says: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        load_rules(tmp_path / name)
    assert name in str(caught.value)


def test_the_greedy_order_is_nearly_the_best() -> None:
    """Against the order that a solver finds to have the greatest DCG, with the scores as gains."""
    draw = random.Random(0)
    losses: list[float] = []
    missed = 0
    while len(losses) + missed < 60:
        listings, rules = _case(draw)
        gains = sorted((draw.random() ** 2 for _ in listings), reverse=True)
        best = _best_dcg(listings, rules, gains)
        ruled, report = apply_rules(make_ranking(listings, gains), rules)
        if best is None:
            assert report.conflicts, "no order keeps these rules"
        elif report.conflicts:
            missed += 1
        else:
            found = sum(gains[int(item.listing_id)] / math.log2(item.rank + 1) for item in ruled)
            losses.append(1 - found / best)
    assert min(losses) > -1e-6, "nothing beats the best"
    assert missed <= 1
    assert np.mean(losses) < 0.001
    assert np.mean(np.array(losses) < 1e-6) > 0.95


def _case(draw: random.Random) -> tuple[list[Listing], Rules]:
    n = draw.randint(4, 7)
    listings = [Listing(str(i), "x", brand=draw.choice("ABC"), seller_id=draw.choice("xyz")) for i in range(n)]
    caps = [AtMost(draw.choice(("brand", "seller")), draw.randint(1, 3), draw.randint(2, n)) for _ in range(2)]
    floors = [AtLeast("seller", draw.randint(1, 2), draw.randint(2, n), (draw.choice("xyz"),)) for _ in range(2)]
    pinned = {str(draw.randrange(n)): draw.randint(1, n)} if draw.random() < 0.3 else {}
    count = draw.randint(0, 2)
    return listings, Rules(at_most=tuple(caps[:count]), at_least=tuple(floors[count - 1 :]), pinned=pinned)


def _best_dcg(listings: list[Listing], rules: Rules, gains: list[float]) -> float | None:
    """The greatest DCG of an order that keeps all rules; None if there is no such order."""
    n = len(listings)
    cells = np.arange(n * n).reshape(n, n)  # listing, place
    rows: list[tuple[Any, float, float]] = [(line, 1, 1) for line in (*cells, *cells.T)]
    for cap in rules.at_most:
        of = [one.brand if cap.by == "brand" else one.seller_id for one in listings]
        rows += [(cells[[name == one for one in of], : cap.top].ravel(), 0, cap.most) for name in set(of)]
    for floor in rules.at_least:
        helps = [one.seller_id in floor.values for one in listings]
        rows.append((cells[helps, : floor.top].ravel(), floor.least, n))
    rows += [(cells[int(key), rank - 1 : rank], 1, 1) for key, rank in rules.pinned.items()]
    matrix = np.zeros((len(rows), n * n))
    for line, (some, _, _) in zip(matrix, rows, strict=True):
        line[some] = 1
    worth = np.outer(gains, 1 / np.log2(np.arange(n) + 2)).ravel()
    limits = LinearConstraint(matrix, [low for _, low, _ in rows], [high for _, _, high in rows])
    solved = milp(-worth, constraints=limits, integrality=np.ones(n * n, dtype=int), bounds=Bounds(0, 1))
    return -float(solved.fun) if solved.success else None
