"""Reads listings out of documents: objects of other systems, whose fields may have any names and values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from genrank.errors import InputError, shown
from genrank.types import Listing, is_visible

ID_FIELDS = ("listing_id", "id")
"""Where a document may hold its own id; the first that it has counts."""

LISTING_FIELDS = (
    "title", "description", "brand", "image_url", "seller_id", "category", "price", "attributes", "rating",
    "rating_count", "reviews", "in_stock", "aspects",
)  # fmt: skip
"""The fields of a document that mean what they mean in `genrank.Listing`."""


def read_listing(listing_id: str, fields: Mapping[str, Any]) -> Listing:
    """Make a listing of a document that has a title.

    `LISTING_FIELDS` mean what they mean in `genrank.Listing`, except that a category may be one text, and a price a
    number. ``text`` is the description where there is none. Other fields become attributes, and so do a price that is a
    text, and aspects that are no list of objects.

    Args:
        listing_id: The listing's id; those in `fields` are left out.
        fields: By name, without None.

    Raises:
        InputError: When a field of the listing is wrong; `field` names it.
    """
    known = {key: value for key, value in fields.items() if key in LISTING_FIELDS}
    own = {key: value for key, value in fields.items() if key not in (*LISTING_FIELDS, *ID_FIELDS, "text")}
    if "text" in fields:
        known.setdefault("description", fields["text"])
    if isinstance(known.get("category"), str):
        known["category"] = [known["category"]]
    price = known.get("price")
    if is_number(price):
        known["price"] = {"amount": price}
    elif isinstance(price, str):  # a client that sends texts only; the model reads it as it is
        own["price"] = known.pop("price")
    aspects = known.get("aspects", [])
    if not isinstance(aspects, list) or not all(isinstance(one, dict) for one in aspects):
        own["aspects"] = known.pop("aspects")  # the shop's own field of that name
    attributes = known.get("attributes", {})
    if not isinstance(attributes, dict):
        raise InputError(f"must be an object of names and texts, got {shown(attributes)}", field="attributes")
    named = {key: plain(value) for key, value in (own | attributes).items() if value is not None}
    return Listing(**{**known, "listing_id": listing_id, "attributes": named})


def joined(fields: Mapping[str, Any]) -> str:
    """All fields in one text, such as ``brand: Acme | colour: red``; empty where nothing is visible."""
    texts = {key: plain(value) for key, value in fields.items() if value is not None}
    return " | ".join(f"{key}: {value}" for key, value in texts.items() if is_visible(value))


def plain(value: object) -> str:
    """A value as a text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and not any(isinstance(part, (list, dict)) for part in value):
        return ", ".join(plain(part) for part in value if part is not None)
    return json.dumps(value, ensure_ascii=False)


def is_number(value: object) -> bool:
    """Whether a value is a number, and not true or false."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def unique_ids(found: Sequence[object]) -> list[str]:
    """An id for each document, all different.

    Args:
        found: ``[n]`` each document's own id, of any type; None where it has none.

    Returns:
        ``[n]`` ids. The first document with an id keeps it, if `genrank.Listing` can have it (whole numbers as
        text); any other gets ``document-`` and its place, 0-based, with as many ``-`` behind it as make it new.
    """
    own: list[str | None] = []
    taken: set[str] = set()
    for value in found:
        usable = _usable(value)
        own.append(usable if usable not in taken else None)
        if usable is not None:
            taken.add(usable)
    ids = []
    for i, kept in enumerate(own):
        name = kept or f"document-{i}"
        while kept is None and name in taken:
            name += "-"
        taken.add(name)
        ids.append(name)
    return ids


def own_id(document: Mapping[str, Any]) -> object:
    """What a document holds as its id; None where it has none."""
    return next((document[key] for key in ID_FIELDS if document.get(key) is not None), None)


def _usable(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**30:
        return str(value)
    return value if isinstance(value, str) and value and value.isprintable() and " " not in value else None
