import dataclasses
import math
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from genrank.data.dataset import Dataset, DatasetQuery
from genrank.errors import InputError
from genrank.rankers.features import FEATURES, NAMES, Featuriser, Own, Statistics, fit, own_judgements
from genrank.search.bm25 import FIELDS, Bm25, TextField
from genrank.search.dense import TextEncoder, encoded_text
from genrank.types import Aspect, Candidate, Interaction, Listing, Price, Query, Request, make_listing

NOTHING = fit([], [])


def rows(
    encoder: TextEncoder,
    query: str,
    candidates: Sequence[Listing | Candidate],
    history: Sequence[Interaction] = (),
    statistics: Statistics = NOTHING,
    own: Own | None = None,
) -> list[dict[str, float]]:
    """The features of each candidate by name."""
    given = tuple(one if isinstance(one, Candidate) else Candidate(one) for one in candidates)
    request = Request(Query(query, "q"), given, tuple(history))
    matrix = Featuriser(encoder, statistics).matrix([request], None if own is None else [own])
    assert matrix.shape == (len(given), len(NAMES))
    return [dict(zip(NAMES, row, strict=True)) for row in matrix.tolist()]


def names(**values: float) -> Any:
    return pytest.approx(values, nan_ok=True, abs=2e-4)


def taken(row: Mapping[str, float], *wanted: str) -> dict[str, float]:
    return {name: row[name] for name in wanted}


def test_names_differ() -> None:
    assert len(set(NAMES)) == len(NAMES)


# semantic ---------------------------------------------------------------------------------------------------------


def test_cosines(encoder: TextEncoder) -> None:
    listings = [Listing("1", "red lamp", description="a lamp"), Listing("2", "oak desk"), Listing("3", "red lamp")]
    query = encoder.encode(["red lamp"])[0]
    whole = encoder.encode([encoded_text(listing) for listing in listings])
    expected = whole @ query
    found = rows(encoder, "red lamp", listings)
    for i, row in enumerate(found):
        below = sum(other < expected[i] - 1e-6 for other in expected)
        others = [whole[i] @ whole[j] for j in range(3) if j != i]
        assert taken(row, *FEATURES["semantic"][:3]) == names(
            cosine=expected[i], cosine_gap=max(expected) - expected[i], cosine_rank=(below + 0.5) / 3
        )
        assert row["cosine_with_others"] == pytest.approx(sum(others) / 2, abs=1e-4)
    assert taken(found[0], "title_cosine", "title_cosine_gap", "title_cosine_rank") == names(
        title_cosine=1.0, title_cosine_gap=0.0, title_cosine_rank=(1 + 0.5 * 2) / 3
    )


# lexical ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    "words", [["lamp", "red", "oak", "shoes", "a1", "blue"], ["红色", "台灯", "桌子", "跑步鞋", "蓝"]]
)
def test_bm25_is_that_of_the_bm25_system(encoder: TextEncoder, field: TextField, words: list[str]) -> None:
    pytest.importorskip("bm25s")
    draw = random.Random(1)
    listings = []
    for i in range(60):
        text = " ".join(draw.choices(words, k=draw.randint(1, 12)))
        values: dict[str, Any] = {field: text}
        if field == "category":
            values = {field: tuple(text.split())}
        elif field == "attributes":
            values = {field: {"kind": text}}
        listings.append(make_listing({"listing_id": str(i), "title": "-"} | values))
    query = " ".join(draw.choices([*words, "unknown"], k=4))
    reference = Bm25(listings, (field,), stem=True).scores(query)
    found = rows(encoder, query, listings, statistics=fit(listings, []))
    assert [row[f"bm25_{field}"] for row in found] == pytest.approx(list(reference), abs=2e-4)


def test_words(encoder: TextEncoder) -> None:
    listing = Listing("1", "Running shoe blue", description="for men")
    (row,) = rows(encoder, "men running shoes", [listing])
    assert taken(row, *FEATURES["lexical"][5:]) == names(
        title_share=2 / 3,
        any_field_share=3 / 3,
        title_jaccard=2 / 4,
        title_has_all=0.0,
        title_has_phrase=0.0,
        title_has_last_word=1.0,
        # of " men running shoe ", all but " me", "men", "en ", "n r" are in " running shoe blue "
        title_trigram_share=1 - 4 / 16,
        title_words=3.0,
        query_words=3.0,
    )
    (row,) = rows(encoder, "running shoes", [listing])
    assert taken(row, "title_has_all", "title_has_phrase") == names(title_has_all=1.0, title_has_phrase=1.0)


def test_a_phrase_ends_with_its_words(encoder: TextEncoder) -> None:
    (row,) = rows(encoder, "car pet", [Listing("1", "car petrol")])
    assert row["title_has_phrase"] == 0.0


def test_chinese(encoder: TextEncoder) -> None:
    fits, other = rows(encoder, "红色连衣裙", [Listing("1", "夏季红色连衣裙"), Listing("2", "蓝色牛仔裤")])
    assert taken(fits, "title_has_all", "colour_match", "colour_conflict") == names(
        title_has_all=1.0, colour_match=1.0, colour_conflict=0.0
    )
    assert taken(other, "title_share", "colour_match", "colour_conflict") == names(
        title_share=0.0, colour_match=0.0, colour_conflict=1.0
    )


# exact ------------------------------------------------------------------------------------------------------------


def test_brand(encoder: TextEncoder) -> None:
    listings = [Listing("1", "shoe", brand="New Balance"), Listing("2", "shoe", brand="Acme"), Listing("3", "shoe")]
    statistics = fit(listings, [])
    found = rows(encoder, "new balance shoe", listings, statistics=statistics)
    expected = [(1.0, 0.0), (0.0, 1.0), (math.nan, math.nan)]
    for row, (match, conflict) in zip(found, expected, strict=True):
        assert taken(row, "brand_match", "brand_conflict") == names(brand_match=match, brand_conflict=conflict)
    found = rows(encoder, "running shoe", listings, statistics=statistics)
    assert taken(found[0], "brand_match", "brand_conflict") == names(brand_match=0.0, brand_conflict=math.nan)


def test_colour_size_and_numbers(encoder: TextEncoder) -> None:
    wanted = ("colour_match", "colour_conflict", "size_match", "size_conflict", "number_match", "numbers_missing")
    listings = [
        Listing("1", "red iphone 15 case 30 cm"),
        Listing("2", "iphone 14 case", attributes={"colour": "blue", "length": "11.8 in"}),
        Listing("3", "case"),
    ]
    found = rows(encoder, "red iphone 15 case 30cm", listings)
    assert [tuple(row[name] for name in wanted) for row in found] == [
        (1.0, 0.0, 1.0, 0.0, 1.0, 0.0),
        (0.0, 1.0, 1.0, 0.0, 0.0, 2.0),
        (0.0, 0.0, 0.0, 0.0, 0.0, 2.0),
    ]
    assert [row["number_conflict"] for row in found] == [0.0, 1 / 2, 0.0]
    (row,) = rows(encoder, "30cm case", [Listing("1", "case 40cm")])
    assert taken(row, "size_match", "size_conflict") == names(size_match=0.0, size_conflict=1.0)
    (row,) = rows(encoder, "case", [Listing("1", "red case 40cm")])
    assert all(math.isnan(row[name]) for name in wanted)


# first stage ------------------------------------------------------------------------------------------------------


def test_first_stage(encoder: TextEncoder) -> None:
    listing = Listing("1", "a")
    others = [dataclasses.replace(listing, listing_id=str(i)) for i in range(2, 4)]
    scores = (4.0, 2.0, 0.0)
    given = [Candidate(one, score=s) for one, s in zip([listing, *others], scores, strict=True)]
    deviation = math.sqrt((2**2 + 0 + 2**2) / 3)
    for i, row in enumerate(rows(encoder, "a", given)):
        assert taken(row, *FEATURES["first_stage"]) == names(
            first_stage_score=scores[i], first_stage_z=(scores[i] - 2) / deviation, first_stage_rank=i + 1.0
        )
    given = [Candidate(listing, score=1e308, rank=7), Candidate(others[0], score=1e308), Candidate(others[1])]
    first, second, unknown = rows(encoder, "a", given)
    assert taken(first, "first_stage_z", "first_stage_rank") == names(first_stage_z=0.0, first_stage_rank=7.0)
    assert second["first_stage_rank"] == 2.0
    assert all(math.isnan(unknown[name]) for name in FEATURES["first_stage"])


def test_without_a_score_a_rank_says_nothing(encoder: TextEncoder) -> None:
    (row,) = rows(encoder, "a", [Candidate(Listing("1", "a"), rank=3)])
    assert all(math.isnan(row[name]) for name in FEATURES["first_stage"])


# price, quality, popularity ---------------------------------------------------------------------------------------


def test_price(encoder: TextEncoder) -> None:
    prices = (Price(10, "EUR"), Price(30, "EUR"), Price(20, "EUR"), Price(1000, "JPY"), None)
    listings = [Listing(str(i), "lamp", price=price) for i, price in enumerate(prices)]
    found = rows(encoder, "lamp under 25", listings)
    assert taken(found[1], *FEATURES["price"]) == names(
        price=30.0, price_percentile=(2 + 0.5) / 3, price_log_ratio=math.log(31 / 21), price_over_limit=1.0
    )
    assert found[0]["price_over_limit"] == 0.0
    assert taken(found[3], "price_percentile", "price_log_ratio") == names(price_percentile=0.5, price_log_ratio=0.0)
    assert all(math.isnan(found[4][name]) for name in FEATURES["price"])


def test_quality(encoder: TextEncoder) -> None:
    listings = [
        Listing("1", "a", rating=4.5, rating_count=9, reviews=("Works great.", "Excellent.", "\u200b")),
        Listing("2", "a", rating_count=10**400, reviews=("Terrible. Does not work.",)),
        Listing("3", "a"),
    ]
    good, bad, unknown = rows(encoder, "a", listings)
    assert taken(good, "rating", "log_rating_count") == names(rating=4.5, log_rating_count=math.log(10))
    assert good["review_sentiment"] > 0 > bad["review_sentiment"]
    assert math.isfinite(bad["log_rating_count"])
    assert all(math.isnan(unknown[name]) for name in FEATURES["quality"])


def test_popularity(encoder: TextEncoder, bazaar: Dataset) -> None:
    a, b = Listing("a", "x"), Listing("b", "x")
    queries = [
        (
            DatasetQuery(Query("x", "1"), "train", (Interaction("click", a), Interaction("cart", a))),
            Own(frozenset("ab"), frozenset("a")),
        ),
        (DatasetQuery(Query("x", "2"), "train"), Own(frozenset("a"), frozenset("a"))),
    ]
    statistics = fit([a, b], queries)
    expected = (2 + 5 * 2 / 3) / (2 + 5)
    first, second = rows(encoder, "x", [a, b], statistics=statistics)
    assert taken(first, *FEATURES["popularity"]) == names(
        positive_rate=expected, log_positives=math.log(3), log_in_histories=math.log(2)
    )
    assert second["positive_rate"] == pytest.approx((0 + 5 * 2 / 3) / (1 + 5))


def test_a_training_query_does_not_count_for_itself(encoder: TextEncoder) -> None:
    a = Listing("a", "x")
    query, own = DatasetQuery(Query("x", "1"), "train", (Interaction("click", a),)), Own(frozenset("a"), frozenset("a"))
    statistics = fit([a], [(query, own)])
    (row,) = rows(encoder, "x", [a], query.history, statistics, own)
    assert taken(row, *FEATURES["popularity"]) == names(positive_rate=1.0, log_positives=0.0, log_in_histories=0.0)
    with pytest.raises(InputError, match="own"):
        Featuriser(encoder, statistics).matrix([Request(query.query, (Candidate(a),))], [])


def test_own_judgements(bazaar: Dataset) -> None:
    query = bazaar.queries[0]
    judged = bazaar.qrels[query.query.query_id]
    own = own_judgements(bazaar, query, 2)
    assert own.judged == set(judged)
    assert own.positives == {key for key, grade in judged.items() if grade >= 2}


# history ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (1, 0, 2)])
def test_history(encoder: TextEncoder, order: tuple[int, ...]) -> None:
    now = datetime(2026, 1, 31, tzinfo=UTC)
    lamp = Listing("h1", "red lamp", brand="Acme", category=("Home", "Light"), price=Price(9, "EUR"))
    desk = Listing("h2", "oak desk", brand="Globex", category=("Home", "Desks"), price=Price(99, "EUR"))
    history = [
        Interaction("click", desk, time=now - timedelta(days=30)),
        Interaction("purchase", desk, time=now),
        Interaction("view", lamp, time=now.replace(tzinfo=None) + timedelta(seconds=1)),
    ]
    history = [history[i] for i in order]
    candidate = dataclasses.replace(lamp, listing_id="c", price=Price(19, "EUR"))
    one = encoder.encode([encoded_text(candidate)])[0] @ encoder.encode([encoded_text(desk)])[0]
    (row, bought) = rows(encoder, "lamp", [candidate, desk], history)
    old = 0.5 ** (2 / 5)
    first, middle = 0.5 ** (2 / 5), 0.5 ** (1 / 5)
    assert taken(row, *FEATURES["history"]) == names(
        seen_cosine_max=1.0,
        seen_cosine_mean=(one + 1) / 2,
        seen_cosine_by_place=(old * one + 1) / (old + 1),
        seen_cosine_by_time=(0.5 * one + 1) / (0.5 + 1),
        seen_cosine_last=1.0,
        bought_cosine_max=one,
        bought_cosine_mean=one,
        bought_cosine_by_place=one,
        bought_cosine_by_time=one,
        bought_cosine_last=one,
        brand_affinity=1 / (first + middle + 1),
        category_affinity=(0.5 * first + 0.5 * middle + 1) / (first + middle + 1),
        price_affinity=math.log(100 / 20),
        already_seen=0.0,
        already_bought=0.0,
        history_length=3.0,
    )
    assert taken(bought, "already_seen", "already_bought") == names(already_seen=1.0, already_bought=1.0)


def test_a_history_without_times_prices_or_brands(encoder: TextEncoder) -> None:
    (row,) = rows(
        encoder, "a", [Listing("1", "a", brand="b", category=("c",))], [Interaction("view", Listing("2", "a"))]
    )
    unknown = ("seen_cosine_by_time", "bought_cosine_max", "brand_affinity", "category_affinity", "price_affinity")
    assert all(math.isnan(row[name]) for name in unknown)


def test_no_history(encoder: TextEncoder) -> None:
    (row,) = rows(encoder, "a", [Listing("1", "a")])
    assert row["history_length"] == 0.0
    assert all(math.isnan(row[name]) for name in FEATURES["history"][:-1])


# all --------------------------------------------------------------------------------------------------------------


def test_hostile_listings_give_no_infinity(encoder: TextEncoder) -> None:
    listings = [
        Listing("1", "!!!"),
        Listing("2", "\ud800x", description="1" * 50_000, attributes={"": "", "colour": "\u0000"}),
        Listing("3", "x" * 50_000, price=Price(1.7e308), category=("", "\u202e"), brand="\ufffd"),
    ]
    history = [Interaction("rating", listing) for listing in listings]
    for query in ("?", "x 1", "红 \ud800"):
        for row in rows(encoder, query, listings, history, fit(listings, [])):
            assert not any(math.isinf(value) for value in row.values())


def test_features_of_a_request_depend_on_no_other(encoder: TextEncoder, bazaar: Dataset, monkeypatch: Any) -> None:
    featuriser = Featuriser(encoder, fit(bazaar.listings.values(), []))
    requests = [bazaar.request(query) for query in bazaar.queries[:5]]
    together = featuriser.matrix(requests)
    np.testing.assert_array_equal(together, np.concatenate([featuriser.matrix([request]) for request in requests]))
    monkeypatch.setattr("genrank.rankers.features._REQUESTS_AT_ONCE", 2)
    np.testing.assert_array_equal(together, featuriser.matrix(requests))
    assert featuriser.matrix([]).shape == (0, len(NAMES))


def test_the_order_of_the_candidates_does_not_matter(encoder: TextEncoder, bazaar: Dataset) -> None:
    featuriser = Featuriser(encoder, fit(bazaar.listings.values(), []))
    request = bazaar.request(bazaar.queries[1])
    turned = dataclasses.replace(request, candidates=request.candidates[::-1])
    np.testing.assert_allclose(featuriser.matrix([request])[::-1], featuriser.matrix([turned]), atol=2e-4)


def test_statistics_survive_json(encoder: TextEncoder, bazaar: Dataset) -> None:
    import json

    own = [own_judgements(bazaar, query, 2) for query in bazaar.queries]
    statistics = fit(bazaar.listings.values(), zip(bazaar.queries, own, strict=True))
    assert Statistics.from_dict(json.loads(json.dumps(statistics.to_dict()))) == statistics


# aspects ----------------------------------------------------------------------------------------------------------


def test_aspects(encoder: TextEncoder) -> None:
    opinions = (Aspect("fit", 5, 2), Aspect("colour", 0, 1, 2))
    listings = [
        Listing("1", "lamp", aspects=opinions),
        Listing("2", "lamp"),
        Listing("3", "lamp", aspects=(Aspect("fit"),)),
        Listing("4", "lamp", aspects=(Aspect("fit", 10**4000),)),
    ]
    found = [taken(row, *FEATURES["aspects"]) for row in rows(encoder, "lamp", listings)]
    nan = math.nan
    assert found[:3] == [
        names(aspects_positive_share=6 / 10, log_aspect_opinions=math.log(11)),
        names(aspects_positive_share=nan, log_aspect_opinions=nan),
        names(aspects_positive_share=nan, log_aspect_opinions=0.0),
    ]
    assert all(map(math.isfinite, found[3].values()))
