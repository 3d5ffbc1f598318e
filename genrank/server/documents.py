"""Turns the documents of a request into candidates: texts, dicts of texts, and listings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from genrank.data.documents import ID_FIELDS, is_number, joined, own_id, read_listing, unique_ids
from genrank.errors import InputError, shown
from genrank.inputs import at
from genrank.server.errors import invalid, too_large
from genrank.types import Candidate, Listing, is_visible

_STAGE = ("score", "rank")


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
    ids = unique_ids([own_id(document) if isinstance(document, dict) else None for document in documents])
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
        return found if found is not None else joined(document)
    return str(document)


def _candidate(listing_id: str, document: object, rank_fields: Sequence[str] | None) -> Candidate | None:
    if isinstance(document, str):
        return _titled(listing_id, document)
    fields = {key: value for key, value in dict(document).items() if value is not None}  # type: ignore[call-overload]
    stage = {key: fields.pop(key) for key in _STAGE if is_number(fields.get(key))}
    if rank_fields:
        fields = {key: fields[key] for key in rank_fields if key in fields}
    for key in ("title", "text"):
        if not isinstance(fields.get(key, ""), str):
            raise InputError(f"must be text, got {shown(fields[key])}", field=key)
    if is_visible(fields.get("title", "")):
        return Candidate(read_listing(listing_id, fields), **stage)
    text = fields.get("text", "")
    if rank_fields or not is_visible(text):
        text = joined({key: value for key, value in fields.items() if key not in ID_FIELDS})
    return _titled(listing_id, text, stage.get("score"))


def _titled(listing_id: str, title: str, score: float | None = None) -> Candidate | None:
    return Candidate(Listing(listing_id, title), score) if is_visible(title) else None


def _length(value: object) -> int:
    """Characters in a value, at every level."""
    if isinstance(value, dict):
        return sum(len(key) + _length(part) for key, part in value.items())
    if isinstance(value, list):
        return sum(map(_length, value))
    return len(value) if isinstance(value, str) else 0
