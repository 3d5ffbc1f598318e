"""Which fields of a listing a prompt shows, and how each is written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from genrank.text.clean import clean, number_text
from genrank.text.injection import neutralise
from genrank.types import Listing

_CHARS_READ_PER_TOKEN = 8
_CHARS_NEUTRALISED = 4  # for each character that may be shown


def _price(listing: Listing) -> str:
    return f"{number_text(listing.price.amount)} {listing.price.currency}".strip() if listing.price else ""


FieldValue = str | float | bool | Sequence[str] | Mapping[str, str]
FieldKey = str | float | bool | tuple[str, ...] | tuple[tuple[str, str], ...]
"""A value that can be looked up; attributes are pairs."""

FIELD_KEYS: Mapping[str, Callable[[Listing], FieldKey | None]] = {
    "title": lambda listing: listing.title,
    "description": lambda listing: listing.description,
    "brand": lambda listing: listing.brand,
    "category": lambda listing: listing.category,
    "price": _price,
    "attributes": lambda listing: tuple(listing.attributes.items()),
    "rating": lambda listing: listing.rating,
    "reviews": lambda listing: listing.reviews,
    "in_stock": lambda listing: listing.in_stock,
}


class DataText:
    """Reads what shops and shoppers wrote.

    Args:
        harmless: What `neutraliser` gives; None: texts are cleaned and not neutralised.

    Attributes:
        changed: Texts that neutralising changed.
        unread: Characters that were not read, since they cannot be among the tokens that are shown.
    """

    def __init__(self, harmless: Neutralise | None) -> None:
        self._harmless = harmless
        self.changed = 0
        self.unread = 0

    def text(self, text: str, tokens: int, *, keep: bool = False) -> str:
        """One text of which at most `tokens` tokens are shown; see `genrank.text.injection.neutralise` for `keep`."""
        if self._harmless is None:
            return clean(text)
        most = tokens * _CHARS_READ_PER_TOKEN * _CHARS_NEUTRALISED
        if len(text) > most:
            self.unread += len(text) - most
            text = text[:most]
        harmless, changed = self._harmless(text, keep)
        self.changed += changed
        return harmless

    def value(self, value: FieldValue, tokens: int) -> FieldValue:
        """One field; of attributes the names too, and those that say nothing any more are left out."""
        match value:
            case str():
                return self.text(value, tokens)
            case Mapping():
                read = [(self.text(key, tokens), self.text(part, tokens), part) for key, part in value.items()]
                return {key: part for key, part, was in read if part or not was}
            case float() | int():
                return value
        return [self.text(part, tokens) for part in value]


Neutralise = Callable[[str, bool], tuple[str, bool]]


def neutraliser(own: re.Pattern[str]) -> Neutralise:
    """Makes a text harmless, and says whether that changed more than cleaning does.

    See `genrank.text.injection.neutralise`.
    """

    def harmless(text: str, keep: bool) -> tuple[str, bool]:
        found = neutralise(text, own, keep=keep)
        return found, found != clean(text)

    return harmless


def field_text(field: str, key: FieldKey, values: str, data: DataText, tokens: int) -> str:
    """One field as a template with these `values` writes it; empty where it says nothing."""
    value: FieldValue = dict(cast(Any, key)) if field == "attributes" else cast(Any, key)
    if field == "category" and values != "json":
        value = " > ".join(cast(tuple[str, ...], value))
    value = data.text(cast(str, value), tokens, keep=True) if field == "title" else data.value(value, tokens)
    match value:
        case bool():
            text = "yes" if value else "no"
        case float() | int():
            text = number_text(value)
        case str():
            text = value  # clean already
        case Mapping():
            text = clean(", ".join(f"{key}: {part}" for key, part in value.items()))
        case _:
            text = clean(" / ".join(value))
    if values == "json" and text:
        return json.dumps(value, ensure_ascii=False)
    if values == "lines" and isinstance(value, Mapping):
        return "\n  ".join(clean(f"{key}: {part}") for key, part in value.items())
    return text


def readable(text: str, tokens: int) -> tuple[str, int]:
    """The head of a text that may matter for `tokens` tokens, and how many characters were left unread."""
    most = tokens * _CHARS_READ_PER_TOKEN
    return text[:most], max(0, len(text) - most)
