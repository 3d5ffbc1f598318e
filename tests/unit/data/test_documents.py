from __future__ import annotations

import pytest

from genrank.data.documents import joined, own_id, plain, read_listing, unique_ids
from genrank.errors import InputError
from genrank.types import Listing, Price


def test_fields_of_a_listing_are_read_and_others_are_attributes() -> None:
    fields = {
        "listing_id": "x", "id": 7, "title": "A", "text": "Words", "price": 39, "category": "Dresses", "colour": "red",
        "sizes": ["S", None, "M"], "attributes": {"season": "summer", "pockets": 2},
    }  # fmt: skip
    assert read_listing("p1", fields) == Listing(
        "p1",
        "A",
        description="Words",
        price=Price(39),
        category=("Dresses",),
        attributes={"colour": "red", "sizes": "S, M", "season": "summer", "pockets": "2"},
    )


def test_a_wrong_field_is_named() -> None:
    with pytest.raises(InputError) as caught:
        read_listing("p1", {"title": "A", "rating": 6})
    assert caught.value.field == "rating"


def test_ids_are_kept_once() -> None:
    assert unique_ids(["a", "a", None, 7, "7", True, "document-1", "b c", ""]) == [
        "a", "document-1-", "document-2", "7", "document-4", "document-5", "document-1", "document-7", "document-8",
    ]  # fmt: skip
    assert own_id({"listing_id": None, "id": 3}) == 3
    assert own_id({}) is None


def test_values_as_text() -> None:
    assert [plain(value) for value in ("a", 1.5, True, ["a", 2], {"b": ["é"]})] == [
        "a", "1.5", "true", "a, 2", '{"b": ["é"]}',
    ]  # fmt: skip
    assert joined({"brand": "Acme", "colour": " ", "size": 42, "none": None}) == "brand: Acme | size: 42"
