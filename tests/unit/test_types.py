from __future__ import annotations

import dataclasses
import json
import math
import re
import time
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any, cast

import pydantic
import pytest

from genrank.errors import InputError
from genrank.types import (
    Aspect,
    Candidate,
    Interaction,
    Listing,
    Price,
    Provenance,
    Query,
    RankedItem,
    Ranking,
    Request,
    Tokens,
    compact,
    make_listing,
)

RIGHT: dict[type, dict[str, Any]] = {
    Price: {"amount": 1.0},
    Listing: {"listing_id": "p1", "title": "Red dress"},
    Interaction: {"event": "view", "listing": {"listing_id": "h1", "title": "Hat"}},
    Query: {"text": "dress"},
    Candidate: {"listing": {"listing_id": "p1", "title": "Red dress"}},
}
"""The least fields of each type."""

NAN, INF = math.nan, math.inf

WRONG = [
    # type, field, value, path of the field in the error, a part of the message that says what to do
    (Price, "amount", "¥129", "amount", "without quotes or currency sign"),
    (Price, "amount", NAN, "amount", "replace NaN or infinity"),
    (Price, "amount", INF, "amount", "replace NaN or infinity"),
    (Price, "amount", -1, "amount", "greater than or equal to 0"),
    (Price, "amount", True, "amount", "must be a number, not true or false"),
    (Price, "amount", None, "amount", "this field is required"),
    (Price, "currency", 5, "currency", "write it as text"),
    (Price, "cents", 5, "cents", "remove it"),
    (Listing, "listing_id", "", "listing_id", "non-empty"),
    (Listing, "listing_id", "p 1", "listing_id", "without white space"),
    (Listing, "listing_id", "p\u30001", "listing_id", "without white space"),
    (Listing, "listing_id", "p1\n", "listing_id", "without white space"),
    (Listing, "listing_id", "p\x001", "listing_id", "printable"),
    (Listing, "listing_id", "p\u200b1", "listing_id", "printable"),
    (Listing, "listing_id", "p\ud8001", "listing_id", "printable"),
    (Listing, "listing_id", 7, "listing_id", "write it as text"),
    (Listing, "title", "", "title", "must hold a visible character"),
    (Listing, "title", " \t\n", "title", "must hold a visible character"),
    (Listing, "title", "\u200b\x00\ufeff", "title", "must hold a visible character"),
    (Listing, "title", "\u200d\u200c", "title", "must hold a visible character"),
    (Listing, "title", None, "title", "this field is required"),
    (Listing, "description", 5, "description", "write it as text"),
    (Listing, "brand", ["Zara"], "brand", "write it as text"),
    (Listing, "category", "Women", "category", "valid tuple"),
    (Listing, "category", ["Women", 1], "category[1]", "write it as text"),
    (Listing, "price", 129, "price", "write it as an object"),
    (Listing, "price", "129 CNY", "price", "write it as an object"),
    (Listing, "price", {"amount": "x"}, "price.amount", "without quotes or currency sign"),
    (Listing, "price", {"currency": "CNY"}, "price.amount", "this field is required"),
    (Listing, "attributes", ["red"], "attributes", "valid dictionary"),
    (Listing, "attributes", {"size": 38}, "attributes.size", "write it as text"),
    (Listing, "rating", 5.1, "rating", "less than or equal to 5"),
    (Listing, "rating", -0.1, "rating", "greater than or equal to 0"),
    (Listing, "rating", NAN, "rating", "replace NaN or infinity"),
    (Listing, "rating", False, "rating", "must be a number, not true or false"),
    (Listing, "rating_count", -1, "rating_count", "greater than or equal to 0"),
    (Listing, "rating_count", 1.5, "rating_count", "whole number"),
    (Listing, "rating_count", "many", "rating_count", "whole number"),
    (Listing, "rating_count", True, "rating_count", "must be a number, not true or false"),
    (Listing, "reviews", "good", "reviews", "valid tuple"),
    (Listing, "image_url", 5, "image_url", "write it as text"),
    (Listing, "in_stock", "maybe", "in_stock", "valid boolean"),
    (Listing, "seller_id", 5, "seller_id", "write it as text"),
    (Listing, "aspects", [{"name": " "}], "aspects[0].name", "must hold a visible character"),
    (Listing, "aspects", [{"name": "fit", "positive": -1}], "aspects[0].positive", "greater than or equal to 0"),
    (Listing, "aspects", {"fit": 1}, "aspects", "valid tuple"),
    (Listing, "colour", "red", "colour", "a shop's own fields go under 'attributes'"),
    (Interaction, "event", "buy", "event", "'view', 'click', 'cart', 'purchase' or 'rating'"),
    (Interaction, "listing", "Hat", "listing", "write it as an object"),
    (Interaction, "listing", {"listing_id": "h1"}, "listing.title", "this field is required"),
    (Interaction, "time", "yesterday", "time", "datetime"),
    (Interaction, "time", "2026-13-01T00:00:00Z", "time", "ISO 8601"),
    (Interaction, "time", True, "time", "datetime"),
    (Interaction, "rating", 6, "rating", "less than or equal to 5"),
    (Interaction, "rating", True, "rating", "must be a number, not true or false"),
    (Interaction, "query", 5, "query", "write it as text"),
    (Query, "text", "", "text", "must hold a visible character"),
    (Query, "text", "\u200b", "text", "must hold a visible character"),
    (Query, "text", 5, "text", "write it as text"),
    (Query, "query_id", "q 1", "query_id", "without white space"),
    (Candidate, "listing", "Red dress", "listing", "write it as an object"),
    (Candidate, "score", NAN, "score", "replace NaN or infinity"),
    (Candidate, "score", -INF, "score", "replace NaN or infinity"),
    (Candidate, "score", "high", "score", "write it as a number"),
    (Candidate, "score", True, "score", "must be a number, not true or false"),
    (Candidate, "rank", 0, "rank", "greater than or equal to 1"),
    (Candidate, "rank", 1.5, "rank", "whole number"),
    (Candidate, "rank", True, "rank", "must be a number, not true or false"),
]


@pytest.mark.parametrize(
    ("kind", "name", "value", "path", "advice"),
    WRONG,
    ids=[f"{kind.__name__}.{name}={value!r:.24}".replace("\n", " ") for kind, name, value, _, _ in WRONG],
)
def test_a_wrong_value_is_refused_with_its_field_and_what_to_do(
    kind: type, name: str, value: object, path: str, advice: str
) -> None:
    with pytest.raises(InputError) as caught:
        kind(**RIGHT[kind] | {name: value})
    assert caught.value.field == path
    assert str(caught.value).startswith(f"{path}: ")
    assert advice in str(caught.value)


def test_the_message_shows_the_value_but_not_at_any_length() -> None:
    with pytest.raises(InputError, match=r"got '¥129'"):
        make_listing(RIGHT[Listing] | {"price": {"amount": "¥129"}})
    with pytest.raises(InputError) as caught:
        make_listing(RIGHT[Listing] | {"price": {"amount": "x" * 10_000}})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("kind", RIGHT, ids=lambda kind: str(kind.__name__))
def test_a_required_field_is_missed_by_name(kind: type) -> None:
    for name in RIGHT[kind]:
        fields = {key: value for key, value in RIGHT[kind].items() if key != name}
        with pytest.raises(InputError, match="this field is required") as caught:
            kind(**fields)
        assert caught.value.field == name


@pytest.mark.parametrize("kind", RIGHT, ids=lambda kind: str(kind.__name__))
def test_inputs_are_frozen(kind: type) -> None:
    made = kind(**RIGHT[kind])
    for field in dataclasses.fields(made):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, field.name, None)


def test_positional_arguments_are_named_too() -> None:
    with pytest.raises(InputError) as caught:
        Listing("p 1", "Red dress")
    assert caught.value.field == "listing_id"


@pytest.mark.parametrize(
    ("kind", "name"), [(Price, "amount"), (Listing, "rating_count"), (Candidate, "rank"), (Candidate, "score")]
)
@pytest.mark.parametrize("value", [10**5000, INF, "1e400"], ids=["10**5000", "inf", "'1e400'"])
def test_huge_numbers_are_refused_in_one_line(kind: type, name: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        kind(**RIGHT[kind] | {name: value})
    assert caught.value.field == name
    assert len(str(caught.value)) < 300


def test_large_numbers_work() -> None:
    large = 10**4000
    assert Listing("p", "t", rating_count=large).rating_count == large
    assert Candidate(Listing("p", "t"), score=1e308, rank=large).score == 1e308
    for make in (Price, lambda score: Candidate(Listing("p", "t"), score=score)):
        with pytest.raises(InputError, match=r"must be a number within -1e308\.\.1e308"):
            make(large)


def test_numbers_of_numpy_and_others_are_numbers() -> None:
    np = pytest.importorskip("numpy")
    listing = Listing(
        "p",
        "t",
        price=Price(np.float32(12.5)),
        rating=np.float16(4.5),
        rating_count=np.int64(3),
        in_stock=np.bool_(False),
    )
    assert listing == Listing("p", "t", price=Price(12.5), rating=4.5, rating_count=3, in_stock=False)
    candidate = Candidate(listing, score=np.float32(0.5), rank=np.uint8(2))
    assert (candidate.score, candidate.rank) == (0.5, 2)
    kinds = [type(value) for value in (listing.rating, listing.rating_count, listing.in_stock, candidate.score)]
    assert kinds == [float, int, bool, float]
    assert Price(cast(Any, Decimal("12.5"))).amount == Price(cast(Any, Fraction(25, 2))).amount == 12.5
    assert Interaction("view", listing, time=np.datetime64("2026-05-01T10:00:00.5")).time == datetime(
        2026, 5, 1, 10, 0, 0, 500_000
    )
    assert Interaction("view", listing, time=np.datetime64("NaT")).time is None
    for wrong in (np.bool_(True), np.float32("nan"), np.array([1.0, 2.0])):
        with pytest.raises(InputError) as caught:
            Price(wrong)
        assert caught.value.field == "amount"


def test_missing_values_of_pandas_are_named() -> None:
    pandas = pytest.importorskip("pandas")
    for name, value in (("rating", pandas.NA), ("brand", NAN), ("rating", NAN), ("in_stock", pandas.NA)):
        with pytest.raises(InputError, match=r"missing value of pandas, make it None: df\.astype") as caught:
            make_listing(RIGHT[Listing] | {name: value})
        assert caught.value.field == name
    with pytest.raises(InputError, match="missing value of pandas"):
        Interaction("view", Listing("h1", "Hat"), time=pandas.NaT)
    moment = pandas.Timestamp("2026-05-01T10:00:00Z")
    assert Interaction("view", Listing("h1", "Hat"), time=moment).time == datetime(2026, 5, 1, 10, tzinfo=UTC)


def test_edges_of_the_allowed_ranges_are_allowed() -> None:
    assert Price(0).amount == 0
    assert (Listing("p", "t", rating=0).rating, Listing("p", "t", rating=5).rating) == (0, 5)
    assert Listing("p", "t", rating_count=0).rating_count == 0
    assert Candidate(Listing("p", "t"), score=-1e300, rank=1).score == -1e300
    assert Query("t", "").query_id == ""


def test_nested_parts_may_be_dicts() -> None:
    line = {"listing_id": "p1", "title": "Dress", "price": {"amount": 129, "currency": "CNY"}, "category": ["W", "D"]}
    assert make_listing(line) == Listing("p1", "Dress", category=("W", "D"), price=Price(129.0, "CNY"))
    fields: dict[str, Any] = {"event": "click", "listing": line, "time": "2026-05-01T10:00:00Z"}
    interaction = Interaction(**fields)
    assert interaction.listing == make_listing(line)
    assert interaction.time == datetime(2026, 5, 1, 10, tzinfo=UTC)


def test_field_names_that_are_not_text_are_refused() -> None:
    fields: dict[Any, Any] = {"listing_id": "p1", "title": "Dress", 1: "x"}
    with pytest.raises(InputError, match="field names must be text, got 1"):
        make_listing(fields)


def test_candidate_from_dict_takes_the_first_stage_out_of_the_listing() -> None:
    fields = {"listing_id": "p1", "title": "Dress", "score": 12.3, "rank": 4}
    assert Candidate.from_dict(fields) == Candidate(Listing("p1", "Dress"), score=12.3, rank=4)
    assert fields.keys() == {"listing_id", "title", "score", "rank"}, "the caller's dict is left alone"
    assert Candidate.from_dict({"listing_id": "p1", "title": "Dress"}) == Candidate(Listing("p1", "Dress"))


def test_to_dict_drops_what_holds_nothing_and_keeps_zero_and_false() -> None:
    assert Listing("p1", "Dress").to_dict() == {"listing_id": "p1", "title": "Dress"}
    full = Listing("p1", "Dress", price=Price(0.0), rating=0.0, rating_count=0, in_stock=False, reviews=("good",))
    assert full.to_dict() == {
        "listing_id": "p1",
        "title": "Dress",
        "price": {"amount": 0.0},
        "rating": 0.0,
        "rating_count": 0,
        "in_stock": False,
        "reviews": ["good"],
    }
    assert make_listing(json.loads(json.dumps(full.to_dict()))) == full


def test_aspects_survive_json() -> None:
    listing = Listing("p1", "Dress", aspects=({"name": "fit", "positive": 2, "quote": "Fits."},))  # type: ignore[arg-type]
    assert listing.aspects == (Aspect("fit", 2, quote="Fits."),)
    assert Listing(**json.loads(json.dumps(listing.to_dict()))) == listing
    assert Listing("p1", "Dress", aspects=None).aspects == ()  # type: ignore[arg-type]


def test_compact_works_at_every_level() -> None:
    assert compact({"a": {"b": {"c": None}}, "d": {"e": "", "f": 0}}) == {"d": {"f": 0}}


def test_tokens_add_by_kind() -> None:
    assert Tokens(1, 2, 3) + Tokens(10, 20, 30) == Tokens(1 + 10, 2 + 20, 3 + 30)
    assert Tokens(5) + Tokens() == Tokens(prompt=5)


ITEMS = (
    RankedItem(Listing("b", "b"), 1, 0.5, 2, "It fits.", ("title",)),
    RankedItem(Listing("a", "a"), 2, 0.5, 1),
    RankedItem(Listing("c", "c"), 3, 0.1, 3),
)


def test_a_ranking_is_a_sequence_of_items_that_carry_their_listings() -> None:
    ranking = Ranking("q1", ITEMS)
    assert list(ranking) == list(ITEMS)
    assert (len(ranking), ranking[0], ranking[-1], ranking[:2]) == (3, ITEMS[0], ITEMS[2], ITEMS[:2])
    assert [(item.listing.title, item.listing_id) for item in ranking] == [(x, x) for x in "bac"]
    with pytest.raises(IndexError):
        ranking[3]


def test_a_ranking_survives_json() -> None:
    item = RankedItem(Listing("b", "B", brand="Acme", price=Price(5, "EUR")), 1, 0.5, 2, "It fits.", ("title",))
    provenance = Provenance(decoding="inline", strategy="sliding", window=20, stride=10, cause="deadline")
    adapter = pydantic.TypeAdapter(Ranking)
    ranking = Ranking("q1", (item,), provenance)
    assert adapter.validate_json(adapter.dump_json(ranking)) == ranking


def test_to_run_falls_by_one_so_that_equal_scores_keep_their_order() -> None:
    n = len(ITEMS)
    assert Ranking("q1", ITEMS).to_run() == {"q1": {"b": n - 0, "a": n - 1, "c": n - 2}}


def test_to_run_needs_a_query_id() -> None:
    with pytest.raises(InputError, match=r"Query\(text, query_id=...\)") as caught:
        Ranking("", ITEMS).to_run()
    assert caught.value.field == "query_id"


def test_ranking_to_dict_is_a_ranking_line() -> None:
    fields = Ranking("q1", ITEMS, Provenance(model="m", cuts={"query": 2}, tokens=Tokens(7))).to_dict()
    assert fields["query_id"] == "q1"
    assert fields["items"][0] == {
        "listing_id": "b",
        "rank": 1,
        "score": 0.5,
        "source_rank": 2,
        "reason": "It fits.",
        "evidence": ["title"],
    }
    assert fields["items"][1] == {"listing_id": "a", "rank": 2, "score": 0.5, "source_rank": 1}
    provenance = fields["provenance"]
    assert provenance.keys() == {field.name for field in dataclasses.fields(Provenance)}, "provenance is told in full"
    assert (provenance["cuts"], provenance["tokens"]["prompt"]) == ({"query": 2}, 7)
    assert json.loads(json.dumps(fields, allow_nan=False)) == fields, "JSON types throughout"


REQUEST = Request(Query("q"), (Candidate(Listing("a", "A")),))


def test_a_request_checks_itself() -> None:
    listing = Listing("a", "A")
    made = Request(Query("q"), [Candidate(listing)], [Interaction("view", listing)])  # type: ignore[arg-type]
    assert made == Request(Query("q"), (Candidate(listing),), (Interaction("view", listing),))
    assert isinstance(made.candidates, tuple)
    assert isinstance(made.history, tuple)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"query": "q"}, "query"),
        ({"candidates": ()}, "candidates"),
        ({"candidates": "abc"}, "candidates"),
        ({"candidates": (Listing("a", "A"),)}, "candidates[0]"),
        ({"candidates": (Candidate(Listing("a", "A")), Candidate(Listing("a", "B")))}, "candidates[1].listing_id"),
        ({"history": None}, "history"),
        ({"history": ({"event": "view"},)}, "history[0]"),
    ],
)
def test_a_wrong_request_is_refused_when_it_is_made(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        dataclasses.replace(REQUEST, **change)
    assert caught.value.field == field


@pytest.mark.parametrize("made", [ITEMS[0], Tokens(), Provenance(), Ranking("q", ()), REQUEST])
def test_outputs_are_frozen(made: Any) -> None:
    name = dataclasses.fields(made)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, name, None)


@pytest.mark.parametrize("field", ["category", "reviews"])
def test_a_set_of_texts_has_no_order(field: str) -> None:
    fields: dict[str, Any] = {field: {"Women", "Dresses"}}
    with pytest.raises(InputError, match="must be a list; a set has no order") as caught:
        Listing("p1", "Dress", **fields)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"category": "Women"}, "got 'Women'; write it as a list of texts"),
        ({"attributes": "red"}, "got 'red'; write it as an object of names and texts"),
        ({"price": 129}, 'got 129; write it as an object, such as {"amount": 129.0, "currency": "CNY"}'),
    ],
)
def test_what_is_no_list_or_object_is_told_what_to_write(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        Listing("p1", "Dress", **fields)


def test_an_interaction_with_a_title_in_place_of_a_listing_is_told_what_a_listing_is() -> None:
    with pytest.raises(
        InputError, match=r'write it as an object, such as \{"listing_id": "p1", "title": "Red dress"\}'
    ):
        Interaction("view", "Dress")  # type: ignore[arg-type]


def test_long_doubles_are_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    price = Price(numpy.longdouble("4.5"))
    assert (price.amount, type(price.amount)) == (4.5, float)
    with pytest.raises(InputError, match="finite"):
        Price(numpy.longdouble("inf"))


@pytest.mark.parametrize("filler", ["\u200d", "👩\u200d👧", "\U000e0061", "a\u0301"])
def test_a_text_of_a_megabyte_is_checked_in_milliseconds(filler: str) -> None:
    text = "coat " + filler * (2**20 // len(filler))
    started = time.perf_counter()
    for _ in range(20):
        Query(text)
    assert time.perf_counter() - started < 1.0, "cleaning all of it takes 2 s each"
    assert Query(" " * 10_000 + "x").text.endswith("x")
