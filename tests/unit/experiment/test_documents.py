from collections.abc import Iterator

import pytest

from genrank.errors import InputError
from genrank.experiment.documents import MAX_ATTRIBUTE, Documents, document_listing
from genrank.types import Listing, Price


def test_title_and_text() -> None:
    assert document_listing("d", "A title", "Its text.", {}) == Listing("d", "A title", "Its text.")
    assert document_listing("d", " ", "Its text.", {}) == Listing("d", "Its text.")
    assert document_listing("d", "", "", {}) == Listing("d", "d")


def test_further_fields() -> None:
    further = {
        "brand": "Acme",
        "category": "Lamps",
        "price": {"amount": 3, "currency": "EUR"},
        "year": 1999,
        "authors": ("Ada", "Grace"),
        "empty": "",
        "long": "x" * (MAX_ATTRIBUTE + 1),
        "raw": b"bytes",
        "nested": {"a": 1},
        "none": None,
    }
    listing = document_listing("d", "t", "", further)
    assert (listing.brand, listing.category, listing.price) == ("Acme", ("Lamps",), Price(3.0, "EUR"))
    assert listing.attributes == {"year": "1999", "authors": "Ada, Grace"}


def test_a_wrong_field_is_named() -> None:
    with pytest.raises(InputError, match="rating"):
        document_listing("d", "t", "", {"rating": 17})


class Counted(Documents):
    """Counts what is read."""

    found = 0
    streamed = 0

    def find(self, doc_id: str) -> Listing:
        if not doc_id.startswith("d"):
            raise KeyError(doc_id)
        self.found += 1
        return Listing(doc_id, doc_id)

    def stream(self) -> Iterator[Listing]:
        for i in range(3):
            self.streamed += 1
            yield Listing(f"d{i}", f"d{i}")


def test_documents_are_read_once_and_streams_are_not_kept() -> None:
    documents = Counted()
    assert documents["d1"] is documents["d1"]
    assert documents.get("x") is None
    assert (documents.found, documents.streamed) == (1, 0)
    assert [listing.listing_id for listing in documents.values()] == list(documents) == ["d0", "d1", "d2"]
    assert dict(documents.items()).keys() == {"d0", "d1", "d2"}
    assert len(documents) == 3
    assert documents.found == 1
    assert documents.streamed > 0
