"""Turns the documents of a request into candidates: texts, dicts of texts, and listings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genrank.errors import InputError, shown
from genrank.inputs import at
from genrank.server.errors import invalid, too_large
from genrank.types import Candidate, Listing, is_visible

_IDS = ("listing_id", "id")
_STAGE = ("score", "rank")
_TEXTS = ("title", "description", "brand", "image_url", "seller_id")
_LISTING = (*_TEXTS, "category", "price", "attributes", "rating", "rating_count", "reviews", "in_stock", "aspects")


@dataclass(frozen=True, slots=True)
class Documents:
    """The documents of a request.

    Attributes:
        candidates: Those that hold a visible character.
        places: ``[candidates]`` each one's place among all documents, 0-based.
        blank: Places of the others, which no model needs to see.
    """

    candidates: tuple[Candidate, ...]
    places: tuple[int, ...]
    blank: tuple[int, ...]


def read_documents(
    documents: Sequence[object], *, field: str, rank_fields: Sequence[str] | None = None, most_text: int
) -> Documents:
    """Read the documents of a request.

    A text is a title. An object with a ``title`` is a listing: the fields of `genrank.Listing` mean the same here, and
    others become attributes. Any other object is its ``text``, or all its fields where it has none. ``listing_id`` (or
    ``id``) is kept where it is usable; repeated documents and ids do no harm.

    Args:
        documents: As the client sent them.
        field: Where they are in the request, for errors.
        rank_fields: The only fields of objects to read; by default a listing's, or ``text``.
        most_text: Characters in one document.

    Raises:
        ApiError: When a document is too large or of a wrong type.
        InputError: When a listing's field is wrong.
    """
    for i, document in enumerate(documents):
        if not isinstance(document, (str, dict)):
            raise invalid(f"{field}[{i}]", f"must be a text or an object, got {shown(document)}")
        if (length := _length(document)) > most_text:
            raise too_large(f"{field}[{i}]", "characters", most_text, length)
    ids = _ids(documents)
    candidates, places, blank = [], [], []
    for i, document in enumerate(documents):
        with at(f"{field}[{i}]"):
            candidate = _candidate(ids[i], document, rank_fields)
        if candidate is None:
            blank.append(i)
        else:
            candidates.append(candidate)
            places.append(i)
    return Documents(tuple(candidates), tuple(places), tuple(blank))


def document_text(document: object) -> str:
    """The text by which a document is shown again."""
    if isinstance(document, Mapping):
        found = next((document[key] for key in ("text", "title") if isinstance(document.get(key), str)), None)
        return found if found is not None else _joined(document)
    return str(document)


def _candidate(listing_id: str, document: object, rank_fields: Sequence[str] | None) -> Candidate | None:
    if isinstance(document, str):
        return _titled(listing_id, document)
    fields = {key: value for key, value in dict(document).items() if value is not None}  # type: ignore[call-overload]
    stage = {key: fields.pop(key) for key in _STAGE if _is_number(fields.get(key))}
    if rank_fields:
        fields = {key: fields[key] for key in rank_fields if key in fields}
    for key in ("title", "text"):
        if not isinstance(fields.get(key, ""), str):
            raise InputError(f"must be text, got {shown(fields[key])}", field=key)
    if is_visible(fields.get("title", "")):
        return Candidate(_listing(listing_id, fields), **stage)
    text = fields.get("text", "")
    if rank_fields or not is_visible(text):
        text = _joined({key: value for key, value in fields.items() if key not in _IDS})
    return _titled(listing_id, text, stage.get("score"))


def _titled(listing_id: str, title: str, score: float | None = None) -> Candidate | None:
    return Candidate(Listing(listing_id, title), score) if is_visible(title) else None


def _listing(listing_id: str, fields: Mapping[str, Any]) -> Listing:
    """A listing of an object that has a title; what `Listing` does not know becomes an attribute."""
    known = {key: value for key, value in fields.items() if key in _LISTING}
    own = {key: value for key, value in fields.items() if key not in (*_LISTING, *_IDS, "text")}
    if "text" in fields:
        known.setdefault("description", fields["text"])
    if isinstance(known.get("category"), str):
        known["category"] = [known["category"]]
    price = known.get("price")
    if _is_number(price):
        known["price"] = {"amount": price}
    elif isinstance(price, str):  # a client that sends texts only; the model reads it as it is
        own["price"] = known.pop("price")
    aspects = known.get("aspects", [])
    if not isinstance(aspects, list) or not all(isinstance(one, dict) for one in aspects):
        own["aspects"] = known.pop("aspects")  # the shop's own field of that name
    attributes = known.get("attributes", {})
    if not isinstance(attributes, dict):
        raise InputError(f"must be an object of names and texts, got {shown(attributes)}", field="attributes")
    named = {key: _plain(value) for key, value in (own | attributes).items() if value is not None}
    return Listing(**{**known, "listing_id": listing_id, "attributes": named})


def _plain(value: object) -> str:
    """A value as a text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and not any(isinstance(part, (list, dict)) for part in value):
        return ", ".join(_plain(part) for part in value if part is not None)
    return json.dumps(value, ensure_ascii=False)


def _joined(fields: Mapping[str, Any]) -> str:
    plain = {key: _plain(value) for key, value in fields.items() if value is not None}
    return " | ".join(f"{key}: {value}" for key, value in plain.items() if is_visible(value))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _length(value: object) -> int:
    """Characters in a value, at every level."""
    if isinstance(value, dict):
        return sum(len(key) + _length(part) for key, part in value.items())
    if isinstance(value, list):
        return sum(map(_length, value))
    return len(value) if isinstance(value, str) else 0


def _ids(documents: Sequence[object]) -> list[str]:
    """An id for each document: its own where that is usable and new, else one by its place."""
    found: list[str | None] = []
    taken: set[str] = set()
    for document in documents:
        own = _own_id(document)
        found.append(own if own is not None and own not in taken else None)
        if own is not None:
            taken.add(own)
    ids = []
    for i, own in enumerate(found):
        name = own or f"document-{i}"
        while own is None and name in taken:
            name += "-"
        taken.add(name)
        ids.append(name)
    return ids


def _own_id(document: object) -> str | None:
    if not isinstance(document, dict):
        return None
    value = next((document[key] for key in _IDS if document.get(key) is not None), None)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**30:
        value = str(value)
    usable = isinstance(value, str) and value and value.isprintable() and " " not in value
    return value if usable else None
