"""Makes listings of the documents of other frameworks: a text, metadata and an id.

| of the document | becomes |
|---|---|
| metadata ``title`` | the title; without one, the text is the title, and without a text all metadata in one line |
| metadata ``text`` | the text, where the document has none |
| metadata ``description`` | the description; without one, the text, where it is not the title |
| metadata ``brand``, ``image_url``, ``seller_id`` | the field of that name; a number as text |
| metadata ``category`` | the path; one text is a path of one |
| metadata ``price`` | the price: an object (``amount``, ``currency``), or a number beside the metadata ``currency`` |
| metadata ``rating``, ``rating_count``, ``reviews``, ``in_stock``, ``aspects`` | the field of that name |
| metadata ``attributes`` | the attributes, if it is an object |
| other metadata | an attribute, as text; so does a value that its field cannot hold, such as the price ``39 EUR`` |
| metadata ``listing_id``, else the document's id, else metadata ``id`` | the id, see `listing_ids` |
| metadata ``relevance_score`` and ``genrank``, numbers under ``score`` and ``rank`` | nothing: rankers wrote them |

None, NaN and infinity count as missing, and so does any value that is not a text, number, truth value, date, list or
dict.
"""

from __future__ import annotations

import decimal
import math
import numbers
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from genrank.data.documents import is_number, joined, plain, read_listing, unique_ids
from genrank.errors import InputError
from genrank.types import Candidate, Listing, is_visible

NOTES = "genrank"
"""The metadata under which an integration writes what genrank says of a document."""

RELEVANCE = "relevance_score"
"""The metadata that holds the score, in frameworks whose documents have none of their own."""

_STAGE = ("score", "rank")
_NUMBERS_AS_TEXT = ("title", "description", "brand", "image_url", "seller_id")


@dataclass(frozen=True, slots=True)
class Document:
    """A framework's document.

    Attributes:
        text: Its text; None is as if empty.
        metadata: Its metadata, with any values.
        document_id: Its own id, of any type; None when it has none.
        score: The first stage's score.
    """

    text: str | None
    metadata: Mapping[Any, object]
    document_id: object = None
    score: object = None


def listing(text: str | None, metadata: Mapping[Any, object], listing_id: str) -> Listing | None:
    """Make a listing of a document, as the table of this module says.

    Args:
        text: The document's text.
        metadata: The document's metadata; it is not changed.
        listing_id: The listing's id, such as one of `listing_ids`; those in the metadata are not read.

    Returns:
        The listing; None when the document holds no visible character.

    Raises:
        InputError: When `listing_id` is no id.
    """
    fields = {str(key): tidy for key, value in metadata.items() if (tidy := _tidy(value)) is not None}
    own = fields.pop("text", None)
    if not is_visible(text or "") and isinstance(own, str):
        text = own
    for key in ("listing_id", "id", RELEVANCE, NOTES):
        fields.pop(key, None)
    for key in _STAGE:
        if is_number(fields.get(key)):
            del fields[key]
    for key in _NUMBERS_AS_TEXT:
        if is_number(fields.get(key)):
            fields[key] = plain(fields[key])
    if is_number(fields.get("price")) and isinstance(fields.get("currency"), str):
        fields["price"] = {"amount": fields["price"], "currency": fields.pop("currency")}
    text = text or ""
    title = fields.get("title")
    if isinstance(title, str) and is_visible(title):
        if is_visible(text):
            fields["text"] = text
        return _fitting(listing_id, fields)
    if is_visible(text):
        return _fitting(listing_id, {**fields, "title": text})
    text = joined(fields)
    return Listing(listing_id, text) if is_visible(text) else None


def listing_ids(documents: Sequence[Document]) -> list[str]:
    """An id for each document, all different, so that documents that are the same all survive.

    Returns:
        ``[n]`` each the metadata's ``listing_id``, else the document's id, else the metadata's ``id``. One that is
        taken by a document before it, or that is no id (it holds white space, say), is replaced by ``document-`` and
        the document's place, 0-based.
    """
    return unique_ids([_own_id(document) for document in documents])


def candidates(documents: Sequence[Document], fields: Sequence[str] | None = None) -> list[Candidate | None]:
    """Make candidates of documents.

    Args:
        documents: ``[n]`` in the first stage's order.
        fields: The only metadata to read besides ids; by default all.

    Returns:
        ``[n]`` candidates; None for a document without a visible character. A document's score, or else a number
        under its metadata ``score``, is the first stage's.
    """
    found = []
    for document, listing_id in zip(documents, listing_ids(documents), strict=True):
        metadata = document.metadata
        if fields is not None:
            metadata = {key: metadata[key] for key in fields if key in metadata}
        one = listing(document.text, metadata, listing_id)
        scores = map(_tidy, (document.score, document.metadata.get("score")))
        found.append(None if one is None else Candidate(one, next(filter(is_number, scores), None)))
    return found


def _own_id(document: Document) -> object:
    metadata = document.metadata
    ids = (metadata.get("listing_id"), document.document_id, metadata.get("id"))
    return next((tidy for value in ids if (tidy := _tidy(value)) is not None and tidy != ""), None)


def _fitting(listing_id: str, fields: dict[str, Any]) -> Listing:
    """A listing whose attributes hold what its other fields cannot."""
    while True:
        try:
            return read_listing(listing_id, fields)
        except InputError as error:
            name = re.split(r"\W", error.field)[0]
            if name not in fields:
                raise
            value = fields.pop(name)
            fields["attributes"] = {name: value, **fields.get("attributes", {})}


def _tidy(value: object) -> Any:
    """A value as JSON types; None for what is missing or no value of that kind."""
    if isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, date):
        return None if type(value).__name__ == "NaTType" else value.isoformat()  # pandas' missing time is a datetime
    if isinstance(value, Mapping):
        return {str(key): tidy for key, part in value.items() if (tidy := _tidy(part)) is not None}
    if isinstance(value, (list, tuple)):
        return [tidy for part in value if (tidy := _tidy(part)) is not None]
    if hasattr(value, "dtype") and hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # NumPy's scalars
        return _tidy(value.item())
    return _tidy(float(value)) if isinstance(value, (numbers.Real, decimal.Decimal)) else None
