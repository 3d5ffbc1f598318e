"""Documents of text collections as listings, looked up when they are needed.

The title is the listing's title and the text its description. A document without a title gets its text as the title,
and an empty one its id. A further field that is called like one of a listing's (``brand``, ``price``, ``category``,
..) is that field. Other text of at most `MAX_ATTRIBUTE` characters, numbers and lists of texts become attributes;
anything else is left out.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from typing import Any

from genrank.data.documents import LISTING_FIELDS, plain, read_listing
from genrank.types import Listing

MAX_ATTRIBUTE = 200


def document_listing(doc_id: str, title: str, text: str, further: Mapping[str, Any]) -> Listing:
    """A document as a listing, see the top of this module.

    Args:
        doc_id: The document's id.
        title: May be blank.
        text: May be blank.
        further: Other fields of the document, as JSON types.

    Raises:
        InputError: When the id or a field that is called like one of a listing's is wrong.
    """
    listed = {name: list(value) if isinstance(value, tuple) else value for name, value in further.items()}
    fields = {name: value for name, value in listed.items() if name in LISTING_FIELDS or _is_attribute(value)}
    if title.strip():
        fields |= {"title": title, "description": text}
    else:
        fields["title"] = text if text.strip() else doc_id
    return read_listing(doc_id, fields)


def _is_attribute(value: Any) -> bool:
    if isinstance(value, list) and not all(isinstance(one, str) for one in value):
        return False
    return isinstance(value, (str, int, float, list)) and 0 < len(plain(value).strip()) <= MAX_ATTRIBUTE


class Documents(Mapping[str, Listing]):
    """Listings by id, of which only those that were looked up are kept in memory."""

    def __init__(self) -> None:
        self._known: dict[str, Listing] = {}

    @abstractmethod
    def stream(self) -> Iterator[Listing]:
        """All listings, one after the other, none of which is kept."""

    @abstractmethod
    def find(self, doc_id: str) -> Listing:
        """One listing.

        Raises:
            KeyError: When there is no such document.
        """

    def __getitem__(self, doc_id: str) -> Listing:
        if doc_id not in self._known:
            self._known[doc_id] = self.find(doc_id)
        return self._known[doc_id]

    def __iter__(self) -> Iterator[str]:
        return (listing.listing_id for listing in self.stream())

    def __len__(self) -> int:
        return sum(1 for _ in self.stream())

    def values(self) -> ValuesView[Listing]:
        """All listings, read one after the other."""
        return _Values(self)

    def items(self) -> ItemsView[str, Listing]:
        """All ids and listings, read one after the other."""
        return _Items(self)


class _Values(ValuesView[Listing]):
    _mapping: Documents

    def __iter__(self) -> Iterator[Listing]:
        return self._mapping.stream()


class _Items(ItemsView[str, Listing]):
    _mapping: Documents

    def __iter__(self) -> Iterator[tuple[str, Listing]]:
        return ((listing.listing_id, listing) for listing in self._mapping.stream())
