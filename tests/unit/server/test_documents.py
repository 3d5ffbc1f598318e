from __future__ import annotations

from typing import Any

import pytest

from genrank.errors import InputError
from genrank.server.documents import Documents, document_text, read_documents
from genrank.server.errors import ApiError
from genrank.types import Aspect, Candidate, Listing, Price


def read(*documents: object, most_text: int = 1000, **options: Any) -> Documents:
    return read_documents(documents, field="documents", most_text=most_text, **options)


def listing(document: object, **options: Any) -> Listing:
    return read(document, **options).candidates[0].listing


def test_a_text_is_a_title() -> None:
    assert listing("Red dress") == Listing("document-0", "Red dress")


def test_an_object_with_a_title_is_a_listing() -> None:
    document = {
        "listing_id": "p1",
        "title": "Red dress",
        "brand": "Acme",
        "price": {"amount": 39.0, "currency": "EUR"},
        "category": ["Women", "Dresses"],
        "attributes": {"season": "summer", "pockets": 2, "sizes": ["S", "M"], "lining": None},
        "colour": "red",
        "washable": True,
        "text": "A dress.",
        "score": 0.7,
        "rank": 4,
        "seller_id": None,
    }
    assert read(document).candidates[0] == Candidate(
        Listing(
            "p1",
            "Red dress",
            brand="Acme",
            price=Price(39.0, "EUR"),
            category=("Women", "Dresses"),
            attributes={"colour": "red", "washable": "true", "season": "summer", "pockets": "2", "sizes": "S, M"},
            description="A dress.",
        ),
        score=0.7,
        rank=4,
    )


def test_aspects_of_reviews_are_a_field_and_others_an_attribute() -> None:
    assert listing({"title": "A", "aspects": [{"name": "fit", "positive": 2}]}).aspects == (Aspect("fit", 2),)
    assert listing({"title": "A", "aspects": ["soft", "warm"]}).attributes == {"aspects": "soft, warm"}
    assert listing({"title": "A", "aspects": None}) == Listing("document-0", "A")


def test_clients_that_send_texts_only_can_send_listings_too() -> None:
    assert listing({"title": "A", "price": "39 EUR", "category": "Dresses"}) == Listing(
        "document-0", "A", category=("Dresses",), attributes={"price": "39 EUR"}
    )
    assert listing({"title": "A", "price": 39}).price == Price(39.0)


@pytest.mark.parametrize(
    ("document", "title"),
    [
        ({"text": "Red dress", "id": "x", "source": "shop"}, "Red dress"),
        ({"Title": "Red", "Content": "dress"}, "Title: Red | Content: dress"),
        ({"title": " ", "text": "Red dress"}, "Red dress"),
        ({"id": "x", "size": 42, "sold": None, "tags": ["a", "b"]}, "size: 42 | tags: a, b"),
        ({"nested": {"a": [1, {"b": "c"}]}}, 'nested: {"a": [1, {"b": "c"}]}'),
    ],
)
def test_any_other_object_is_its_text(document: object, title: str) -> None:
    assert listing(document).title == title


def test_rank_fields_are_all_that_is_read() -> None:
    document = {"title": "A", "brand": "Acme", "text": "words", "colour": "red"}
    assert listing(document, rank_fields=["title", "colour"]) == Listing(
        "document-0", "A", attributes={"colour": "red"}
    )
    assert listing(document, rank_fields=["text", "brand"]).title == "text: words | brand: Acme"
    assert read(document, rank_fields=["nothing"]).blank == (0,)


@pytest.mark.parametrize("blank", ["", " \n\t", "\u200b", {}, {"text": ""}, {"title": " ", "id": "x"}, {"a": None}])
def test_blank_documents_are_set_aside(blank: object) -> None:
    found = read("A", blank, "B")
    assert (found.places, found.blank) == ((0, 2), (1,))


def test_every_candidate_has_an_id_of_its_own() -> None:
    documents: list[object] = [
        {"title": "A", "id": "document-1"}, "B", {"title": "C", "id": "x"}, {"title": "D", "id": "x"},
        {"title": "E", "listing_id": "with space"}, {"title": "F", "id": 7}, {"title": "G", "id": True}, "B",
    ]  # fmt: skip
    ids = [candidate.listing.listing_id for candidate in read(*documents).candidates]
    assert ids == ["document-1", "document-1-", "x", "document-3", "document-4", "7", "document-6", "document-7"]


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"title": 3}, "documents[1].title"),
        ({"text": ["a"]}, "documents[1].text"),
        ({"title": "A", "price": {"amount": -1}}, "documents[1].price.amount"),
        ({"title": "A", "price": {"amount": float("inf")}}, "documents[1].price.amount"),
        ({"title": "A", "attributes": "red"}, "documents[1].attributes"),
        ({"title": "A", "rating": 6}, "documents[1].rating"),
        ({"title": "A", "rank": 0}, "documents[1].rank"),
    ],
)
def test_a_wrong_field_of_a_listing_is_named(document: object, field: str) -> None:
    with pytest.raises(InputError) as caught:
        read("A", document)
    assert caught.value.field == field


@pytest.mark.parametrize("document", [None, 3, True, ["a"]])
def test_other_types_are_refused(document: object) -> None:
    with pytest.raises(ApiError, match=r"documents\[1\]: must be a text or an object, got") as caught:
        read("A", document)
    assert caught.value.status == 422


@pytest.mark.parametrize("document", ["x" * 11, {"text": "x" * 7}, {"a": {"b": ["x" * 4, "x" * 5]}}])
def test_a_long_document_is_too_large(document: object) -> None:
    with pytest.raises(ApiError, match=r"documents\[0\]: at most 10 characters, got 11; send less") as caught:
        read(document, most_text=10)
    assert caught.value.status == 413


@pytest.mark.parametrize(
    ("document", "text"), [("A", "A"), ({"title": "A", "text": "B"}, "B"), ({"title": "A"}, "A"), ({"a": 1}, "a: 1")]
)
def test_documents_are_shown_again_by_their_text(document: object, text: str) -> None:
    assert document_text(document) == text
