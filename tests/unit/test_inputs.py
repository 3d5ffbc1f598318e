from __future__ import annotations

import re
from typing import Any

import pytest

from genrank.errors import InputError
from genrank.inputs import at, make_candidates, make_history, make_intent, make_query, parse_request
from genrank.types import Candidate, Guess, Intent, Interaction, Listing, Price, Query, Request


def test_make_query() -> None:
    query = Query("dress", "q1")
    assert make_query(query) is query
    assert make_query("dress") == Query("dress")


@pytest.mark.parametrize("value", ["", "  ", "\u200b", None, 5, b"dress", ["dress"], {"text": "dress"}])
def test_make_query_refuses(value: Any) -> None:
    with pytest.raises(InputError) as caught:
        make_query(value)
    assert caught.value.field == "query"


def test_every_form_of_a_candidate() -> None:
    listing = Listing("p2", "Coat")
    given = [
        Candidate(Listing("p1", "Dress"), rank=9),
        listing,
        {"listing_id": "p3", "title": "Hat", "score": 1},
        "Bag",
    ]
    assert make_candidates(given) == (
        Candidate(Listing("p1", "Dress"), rank=9),
        Candidate(listing),
        Candidate(Listing("p3", "Hat"), score=1.0),
        Candidate(Listing("3", "Bag")),  # a plain title's id is its place
    )
    assert make_candidates(iter(given)) == make_candidates(tuple(given))


@pytest.mark.parametrize("value", ["Dress", {"listing_id": "p1", "title": "Dress"}, None, 5, Listing("p1", "Dress")])
def test_candidates_must_be_a_list(value: object) -> None:
    with pytest.raises(InputError, match=f"must be a list of candidates, got {type(value).__name__}") as caught:
        make_candidates(value)
    assert caught.value.field == "candidates"


@pytest.mark.parametrize("kind", [set, frozenset])
def test_a_set_has_no_order(kind: type) -> None:
    for make, field in ((make_candidates, "candidates"), (make_history, "history")):
        with pytest.raises(InputError, match=rf"got {kind.__name__}; a set has no order, so pass a list") as caught:
            make(kind(["Dress", "Coat"]))
        assert caught.value.field == field


def test_what_has_an_order_is_taken() -> None:
    expected = (Candidate(Listing("0", "Dress")), Candidate(Listing("1", "Coat")))
    titles = {"Dress": 1, "Coat": 2}
    for values in (list(titles), tuple(titles), iter(titles), titles.keys(), (title for title in titles)):
        assert make_candidates(values) == expected


def test_tables_of_pandas_and_what_to_pass_instead() -> None:
    pandas = pytest.importorskip("pandas")
    rows = [{"listing_id": "p1", "title": "Dress", "rating_count": 3}, {"listing_id": "p2", "title": "Coat"}]
    table = pandas.DataFrame(rows)
    for make, field in ((make_candidates, "candidates"), (make_history, "history")):
        with pytest.raises(InputError, match=r"got DataFrame; pass df.to_dict\('records'\)") as caught:
            make(table)
        assert caught.value.field == field
    with pytest.raises(InputError, match=r"missing value of pandas, make it None: df\.astype") as caught:
        make_candidates(table.to_dict("records"))
    assert caught.value.field == "candidates[1].rating_count"
    filled = table.astype(object).where(table.notna(), None).to_dict("records")
    assert make_candidates(filled) == (
        Candidate(Listing("p1", "Dress", rating_count=3)),
        Candidate(Listing("p2", "Coat")),
    )
    assert make_candidates(table.title) == make_candidates(["Dress", "Coat"])


def test_an_array_of_titles() -> None:
    numpy = pytest.importorskip("numpy")
    candidates = make_candidates(numpy.array(["Dress", "Coat"]))
    assert candidates == make_candidates(["Dress", "Coat"])
    assert type(candidates[0].listing.title) is str
    with pytest.raises(InputError, match=r"candidates\[0\]: must be a Candidate, Listing, dict or title, got int64"):
        make_candidates(numpy.array([1, 2]))


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"listing_id": "p", "title": "t", "price": {"amount": "129 CNY"}}, "candidates[3].price.amount"),
        ({"listing_id": "p", "title": "t", "score": float("nan")}, "candidates[3].score"),
        ({"listing_id": "p", "title": "t", "colour": "red"}, "candidates[3].colour"),
        ({"listing_id": "p"}, "candidates[3].title"),
        ({1: 2}, "candidates[3]"),
        ("  ", "candidates[3].title"),
        (5, "candidates[3]"),
        (None, "candidates[3]"),
        (["p", "t"], "candidates[3]"),
    ],
)
def test_a_wrong_candidate_is_named_by_its_path(value: object, field: str) -> None:
    with pytest.raises(InputError) as caught:
        make_candidates(["a", "b", "c", value])
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")
    assert str(caught.value).count("candidates[3]") == 1


HAT = {"listing_id": "h1", "title": "Hat"}


def test_every_form_of_an_interaction() -> None:
    interaction = Interaction("view", Listing("h1", "Hat"))
    assert make_history([interaction, {"event": "view", "listing": HAT}]) == (interaction, interaction)
    assert make_history(()) == ()


@pytest.mark.parametrize("value", ["view", {"event": "view", "listing": HAT}, None, 5])
def test_history_must_be_a_list(value: object) -> None:
    with pytest.raises(InputError, match=f"must be a list of interactions, got {type(value).__name__}") as caught:
        make_history(value)
    assert caught.value.field == "history"


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"event": "buy", "listing": HAT}, "history[1].event"),
        ({"event": "view", "listing": HAT | {"price": {"amount": -1}}}, "history[1].listing.price.amount"),
        ({"event": "view"}, "history[1].listing"),
        ({"event": "view", "listing": HAT, "where": "shop"}, "history[1].where"),
        ({1: 2}, "history[1]"),
        ("view", "history[1]"),
        (None, "history[1]"),
    ],
)
def test_a_wrong_interaction_is_named_by_its_path(value: object, field: str) -> None:
    with pytest.raises(InputError) as caught:
        make_history([{"event": "view", "listing": HAT}, value])
    assert caught.value.field == field


REQUEST: dict[str, Any] = {"query": "dress", "candidates": [{"listing_id": "p1", "title": "Dress"}]}


@pytest.mark.parametrize(
    ("candidates", "field", "message"),
    [
        ([], "candidates", "pass at least one"),
        ([Listing("1", "Dress"), "Coat"], "candidates[1].listing_id", "'1' is already that of candidates[0]"),
        (
            ["a", Listing("p1", "b"), Listing("p2", "c"), {"listing_id": "p1", "title": "d"}],
            "candidates[3].listing_id",
            "'p1' is already that of candidates[1]",
        ),
    ],
    ids=["none", "a title's id", "both places"],
)
def test_a_request_has_candidates_and_no_id_twice(candidates: Any, field: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        parse_request(REQUEST | {"candidates": candidates})
    assert caught.value.field == field


def test_null_is_as_if_left_out() -> None:
    full: dict[str, Any] = {
        "query": "dress", "query_id": None, "history": None,
        "candidates": [
            {
                "listing_id": "p1", "title": "Dress", "description": None, "brand": None, "category": None,
                "price": None, "attributes": None, "rating": None, "rating_count": None, "reviews": None,
                "image_url": None, "in_stock": None, "seller_id": None, "score": None, "rank": None,
            }
        ],
    }  # fmt: skip
    assert parse_request(full) == parse_request(REQUEST)
    inner = {
        "listing_id": "p1", "title": "Dress", "price": {"amount": 5, "currency": None},
        "attributes": {"colour": None, "size": "M"}, "category": ["Women", None], "reviews": [None, "good", None],
    }  # fmt: skip
    bare = {
        "listing_id": "p1", "title": "Dress", "price": {"amount": 5},
        "attributes": {"size": "M"}, "category": ["Women"], "reviews": ["good"],
    }  # fmt: skip
    event = {"event": "view", "listing": inner, "time": None, "rating": None, "query": None}
    assert parse_request(REQUEST | {"candidates": [inner], "history": [event]}) == parse_request(
        REQUEST | {"candidates": [bare], "history": [{"event": "view", "listing": bare}]}
    )


@pytest.mark.parametrize(
    ("candidate", "field"),
    [
        ({"listing_id": None, "title": "Dress"}, "candidates[0].listing_id"),
        ({"listing_id": "p1", "title": None}, "candidates[0].title"),
        ({"listing_id": "p1", "title": "Dress", "price": {"amount": None}}, "candidates[0].price.amount"),
    ],
)
def test_null_in_a_required_field_is_a_missing_field(candidate: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match="this field is required; give it a value") as caught:
        parse_request(REQUEST | {"candidates": [candidate]})
    assert caught.value.field == field


def test_parse_request() -> None:
    line = REQUEST | {"query_id": "q1", "history": [{"event": "view", "listing": HAT}]}
    line["candidates"] = [{"listing_id": "p1", "title": "Dress", "price": {"amount": 129.0}, "rank": 2}]
    assert parse_request(line) == Request(
        Query("dress", "q1"),
        (Candidate(Listing("p1", "Dress", price=Price(129.0)), rank=2),),
        (Interaction("view", Listing("h1", "Hat")),),
    )
    assert parse_request(REQUEST) == Request(Query("dress"), (Candidate(Listing("p1", "Dress")),))


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"top_k": 3}, "top_k", "unknown field; a request has query_id, query, history, candidates"),
        ({"query": " "}, "query", "must hold a visible character"),
        ({"query": None}, "query", "this field is required"),
        ({"query": 5}, "query", "write it as text"),
        ({"query_id": "q 1"}, "query_id", "without white space"),
        ({"query_id": 0}, "query_id", "write it as text"),
        ({"candidates": []}, "candidates", "at least one"),
        ({"candidates": None}, "candidates", "this field is required"),
        ({"candidates": ["a", {"title": "b"}]}, "candidates[1].listing_id", "this field is required"),
        ({"history": {}}, "history", "must be a list"),
        ({"history": [{"event": "x", "listing": HAT}]}, "history[0].event", "'view'"),
    ],
)
def test_parse_request_names_the_field_of_the_line(change: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        parse_request(REQUEST | change)
    assert caught.value.field == field


@pytest.mark.parametrize("missing", ["query", "candidates"])
def test_parse_request_names_what_is_missing(missing: str) -> None:
    with pytest.raises(InputError, match="this field is required") as caught:
        parse_request({key: value for key, value in REQUEST.items() if key != missing})
    assert caught.value.field == missing


@pytest.mark.parametrize("value", [None, 5, "dress", [REQUEST]])
def test_a_request_is_an_object(value: object) -> None:
    with pytest.raises(InputError, match=f"a request is an object with .*; got {type(value).__name__}"):
        parse_request(value)


def test_at_puts_places_before_the_field_once() -> None:
    with pytest.raises(InputError) as caught, at("a[0]"), at("b"):
        raise InputError("wrong", field="c.d")
    assert (str(caught.value), caught.value.field) == ("a[0].b.c.d: wrong", "a[0].b.c.d")


def test_tables_of_arrow_and_arrays_of_no_dimension() -> None:
    numpy = pytest.importorskip("numpy")

    class Table:  # as pyarrow's: iterating over it gives columns
        columns = ((1,),)

        def to_pylist(self) -> list[Any]:
            raise NotImplementedError

    with pytest.raises(InputError, match=r"candidates: must be a list of candidates, got Table; pass df.to_pylist\(\)"):
        make_candidates(Table())
    with pytest.raises(InputError, match="history: must be a list of interactions, got ndarray"):
        make_history(numpy.array("Dress"))


FULL_INTENT = Intent(
    query="wintr coat",
    language="en",
    corrected="winter coat",
    categories=(Guess(("Women", "Coats"), 0.75),),
    brand=Guess("Tessa", 1.0),
    attributes={"season": Guess("winter", 0.5)},
    least_price=10.0,
    most_price=99.5,
    currency="EUR",
    excluded=("fur",),
)


def test_an_intent_comes_back_from_its_json() -> None:
    assert make_intent(FULL_INTENT.to_dict(), Query("another")) == FULL_INTENT
    assert make_intent(FULL_INTENT, Query("q")) is FULL_INTENT
    assert make_intent(None, Query("q")) is None
    assert make_intent({"brand": None}, Query("连衣裙")) == Intent("连衣裙", "zh", "连衣裙")


def test_a_request_line_may_have_an_intent() -> None:
    line = {"query": "wintr coat", "candidates": ["Coat"], "intent": {"categories": [{"path": ["Women", "Coats"]}]}}
    found = parse_request(line).intent
    assert found == Intent("wintr coat", "en", "wintr coat", categories=(Guess(("Women", "Coats"), 1.0),))
    assert parse_request({"query": "coat", "candidates": ["Coat"]}).intent is None


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ("winter", "intent"),
        ({"colour": "red"}, "intent.colour"),
        ({"categories": [{"path": []}]}, "intent.categories[0].path"),
        ({"brand": {"name": 3}}, "intent.brand.name"),
        ({"attributes": {"season": {"value": "winter", "confidence": 2}}}, "intent.attributes.season.confidence"),
        ({"price": {"most": -1}}, "intent.price.most"),
    ],
)
def test_a_wrong_intent_is_named_by_its_path(value: Any, field: str) -> None:
    with pytest.raises(InputError) as caught:
        make_intent(value, Query("coat"))
    assert caught.value.field == field


def test_a_request_takes_no_other_kind_of_intent() -> None:
    with pytest.raises(InputError, match=r"intent: must be an Intent, got dict; genrank\.parse_request reads JSON"):
        Request(Query("coat"), make_candidates(["Coat"]), intent={})  # type: ignore[arg-type]
