from __future__ import annotations

import dataclasses
import itertools
import json
import math
from typing import Any

import numpy as np
import pytest

from genrank.decoding.judgements import sigmoid
from genrank.errors import InputError
from genrank.search.diversity import Aspect, Floats, aspect_vectors, diversify, dpp, mmr
from genrank.types import Diversified, Listing, Provenance, RankedItem, Ranking, Variety, in_order

BRAND: tuple[Aspect, ...] = ("brand",)
CATEGORY: tuple[Aspect, ...] = ("category",)
SELLER: tuple[Aspect, ...] = ("seller",)
LISTINGS = [
    Listing("a", "Red dress", brand="Acme", category=("Women", "Dresses"), seller_id="s1"),
    Listing("b", "Red dress", brand="ACME", category=("Women", "Dresses"), seller_id="s2"),
    Listing("c", "Blue skirt", brand="Bond", category=("Women", "Skirts")),
    Listing("d", "Oak desk", category=("Furniture",)),
]


def make_ranking(listings: list[Listing], scores: list[float], **told: Any) -> Ranking:
    items = (RankedItem(one, 1, score, i + 5) for i, (one, score) in enumerate(zip(listings, scores, strict=True)))
    return Ranking("q", in_order(items), Provenance(model="m", **told))


def ids(ranking: Ranking) -> str:
    return "".join(item.listing_id for item in ranking)


@pytest.mark.parametrize("variety", [0.05, 0.3, 0.5, 0.9, 1.0])
def test_dpp_takes_the_listing_with_the_greatest_determinant(variety: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        vectors = np.abs(rng.normal(size=(7, 9)))
        scores = rng.normal(size=7)
        units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        relevance = (scores - scores.mean()) / scores.std()
        order = dpp(scores.tolist(), vectors, variety=variety, top_k=5)

        def value(places: list[int], units: Floats = units, relevance: Floats = relevance) -> float:
            _, log_determinant = np.linalg.slogdet(units[places] @ units[places].T)
            return float((1 - variety) * relevance[places].sum() + variety * log_determinant)

        for step in range(1, 5):
            values = [value([*order[:step], other]) for other in order[step:]]
            assert values[0] == pytest.approx(max(values), abs=1e-9)


@pytest.mark.parametrize("variety", [1e-6, 0.02, 0.5, 1.0])
def test_dpp_is_safe_among_copies(variety: float) -> None:
    vectors = np.repeat(np.eye(3), 4, axis=0)  # 12 listings of 3 kinds
    scores = np.linspace(100, 0, 12)
    order = dpp(scores.tolist(), vectors, variety=variety, top_k=12)
    if variety >= 0.5:
        assert order == [0, 4, 8, *(i for i in range(12) if i not in (0, 4, 8))], "then copies by their scores"
    if variety == 1e-6:
        assert order == list(range(12))


@pytest.mark.parametrize("method", ["mmr", "dpp"])
def test_the_knob_means_the_same_on_any_scale(method: Variety) -> None:
    rng = np.random.default_rng(1)
    scores, vectors = rng.normal(size=15), rng.normal(size=(15, 4))
    run = mmr if method == "mmr" else dpp
    orders = [
        run((scores * scale + move).tolist(), vectors, variety=0.4) for scale, move in ((1, 0), (1e-3, 7), (900, -2))
    ]
    assert orders[0] == orders[1] == orders[2]
    falling = sorted(scores.tolist(), reverse=True)
    listings = [Listing(f"p{i}", "x") for i in range(15)]
    judged = make_ranking(listings, [sigmoid(score) for score in falling], decoding="pointwise")
    varied = diversify(judged, variety=0.4, method=method, vectors=vectors)
    assert [int(item.listing_id[1:]) for item in varied] == run(falling, vectors, variety=0.4), "log-odds count"


@pytest.mark.parametrize("method", ["mmr", "dpp"])
def test_copies_move_down_as_the_knob_turns(method: Variety) -> None:
    ranking = make_ranking(LISTINGS, [0.9, 0.8, 0.5, 0.3])
    assert diversify(ranking, variety=0, method=method) is ranking
    varied = diversify(ranking, variety=0.98, method=method)
    assert ids(varied) == "adcb"
    assert [item.rank for item in varied] == [1, 2, 3, 4]
    assert [item.source_rank for item in varied] == [5, 8, 7, 6]
    assert [item.score for item in varied] == [0.9, 0.3, 0.3, 0.3], "never above the score before it"
    assert ids(diversify(ranking, variety=0.98, method=method, top_k=2)) == "adbc"


def test_the_provenance_says_it() -> None:
    ranking = make_ranking(LISTINGS, [0.9, 0.8, 0.5, 0.3])
    told = diversify(ranking, variety=0.3, method="dpp", top_k=3, aspects=BRAND).provenance
    assert told == dataclasses.replace(ranking.provenance, diversified=Diversified("dpp", 0.3, 3, BRAND))
    given_vectors = diversify(ranking, variety=0.3, vectors=np.eye(4))
    assert given_vectors.provenance.diversified == Diversified("mmr", 0.3, 10)
    line = json.loads(json.dumps(given_vectors.to_dict()))
    assert line["provenance"]["diversified"] == {"method": "mmr", "variety": 0.3, "top_k": 10, "aspects": []}


def test_an_empty_ranking_stays_empty() -> None:
    assert len(diversify(Ranking("q", ()), variety=0.5)) == 0
    assert mmr([], [], variety=0.5) == dpp([], [], variety=0.5) == []


def test_aspect_vectors() -> None:
    alike = aspect_vectors(LISTINGS, BRAND) @ aspect_vectors(LISTINGS, BRAND).T
    assert alike.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], "whatever the case"
    tree = aspect_vectors(LISTINGS, CATEGORY)
    assert (tree @ tree.T)[0].tolist() == pytest.approx([1, 1, 0.5, 0])
    sellers = aspect_vectors(LISTINGS, SELLER)
    assert (sellers @ sellers.T)[2, 3] == 1, "both lack one"
    words = aspect_vectors([Listing("x", "red dress"), Listing("y", "dress, blue")], ("title", "seller"))
    assert (words @ words.T)[0, 1] == pytest.approx(0.5), "no listing has a seller"
    every = aspect_vectors(LISTINGS)
    assert (every @ every.T)[0, 2] == pytest.approx((0.5 + 0 + 0) / 3)
    assert np.linalg.norm(every, axis=1) == pytest.approx(1)
    assert aspect_vectors(LISTINGS[3:], BRAND).shape == (1, 0)


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"variety": 1.2}, "variety", "within 0..1, got 1.2"),
    ({"variety": math.nan}, "variety", "nan"),
    ({"variety": True}, "variety", "True"),
    ({"variety": "much"}, "variety", "'much'"),
    ({"top_k": 0}, "top_k", "at least 1"),
    ({"method": "msd"}, "method", "mmr"),
    ({"aspects": ("colour",)}, "aspects", "'colour'"),
    ({"aspects": ()}, "aspects", "none"),
    ({"aspects": BRAND, "vectors": np.eye(4)}, "aspects", "leave one"),
    ({"vectors": np.eye(3)}, "vectors", "each of the 4 scores, got 3"),
    ({"vectors": [1, 2, 3, 4]}, "vectors", r"\[n, d\]"),
    ({"vectors": [[math.inf]] * 4}, "vectors", "finite"),
    ({"vectors": [[1], [1, 2], [1], [1]]}, "vectors", "numbers of shape"),
]


@pytest.mark.parametrize(("options", "field", "says"), WRONG)
def test_wrong_arguments_are_named(options: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        diversify(make_ranking(LISTINGS, [0.9, 0.8, 0.5, 0.3]), **{"variety": 0.5, **options})
    assert caught.value.field == field


def test_a_ranking_is_needed() -> None:
    with pytest.raises(InputError, match="must be a Ranking, got list") as caught:
        diversify(LISTINGS, variety=0.5)  # type: ignore[arg-type]
    assert caught.value.field == "ranking"


def test_large_and_tiny_vectors_are_the_same() -> None:
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(9, 3))
    scores = rng.normal(size=9).tolist()
    orders = [
        method(scores, vectors * scale, variety=0.6)
        for method, scale in itertools.product((mmr, dpp), (1.0, 1e-200, 1e300))
    ]
    assert orders[0] == orders[1] == orders[2]
    assert orders[3] == orders[4] == orders[5]
