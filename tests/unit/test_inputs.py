from __future__ import annotations

import re
from typing import Any

import pytest

from genrank.errors import InputError
from genrank.inputs import at, make_candidates, make_history, make_query, parse_request
from genrank.types import Candidate, Interaction, Listing, Price, Query, Request


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


def test_no_candidates() -> None:
    with pytest.raises(InputError, match="pass at least one") as caught:
        make_candidates([])
    assert caught.value.field == "candidates"


def test_a_repeated_id_is_refused_with_both_places() -> None:
    with pytest.raises(InputError, match=re.escape("'p1' is already that of candidates[1]")) as caught:
        make_candidates(
            [Listing("p0", "a"), Listing("p1", "b"), Listing("p2", "c"), {"listing_id": "p1", "title": "d"}]
        )
    assert caught.value.field == "candidates[3].listing_id"


def test_a_title_cannot_take_the_id_of_another_candidate() -> None:
    with pytest.raises(InputError) as caught:
        make_candidates([Listing("1", "Dress"), "Coat"])
    assert caught.value.field == "candidates[1].listing_id"


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
        ({"query": None}, "query", "write it as text"),
        ({"query": 5}, "query", "write it as text"),
        ({"query_id": "q 1"}, "query_id", "without white space"),
        ({"query_id": None}, "query_id", "write it as text"),
        ({"candidates": []}, "candidates", "at least one"),
        ({"candidates": None}, "candidates", "must be a list"),
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
