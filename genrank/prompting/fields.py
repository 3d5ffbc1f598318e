"""Which fields of a listing a prompt can show, how each is written, and how much of it is read.

A value may have any size, but only a few tokens of it are shown, so only its beginning is read. The rest is measured in
characters, to estimate how many tokens were cut.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

from genrank.text.clean import clean, number_text
from genrank.text.injection import neutralise
from genrank.types import Listing

_CHARS_PER_TOKEN = 8
"""Characters to tokenise for each token that may be shown; enough, since most tokens are shorter."""

_CHARS_PER_CHAR_LEFT = 4
"""Characters to read for each character to tokenise, since cleaning and neutralising shorten texts."""

_LONGEST_KEPT = 4096
"""The longest value, in characters, whose text is cached for later prompts."""

_MOST_PARTS_KEPT = 256
"""The most attributes, reviews or categories in a value whose text is cached for later prompts."""

_PATH_SIGN = " > "
_PARTS_MEASURED = 1000
"""How many unread parts of a value are measured; the length of the others is estimated from these."""

FieldValue = str | float | bool | Sequence[str] | Mapping[str, str]
FieldKey = str | float | bool | tuple[str, ...] | tuple[tuple[str, str], ...]
"""A hashable value, to look up in a cache; attributes are pairs."""


def _price(listing: Listing) -> str:
    return f"{number_text(listing.price.amount)} {listing.price.currency}".strip() if listing.price else ""


def _aspects(listing: Listing) -> str:
    """Such as ``fit +12 -3, battery +4``; ``±2`` counts mixed opinions."""
    signs = (("+", "positive"), ("-", "negative"), ("±", "mixed"))
    return ", ".join(
        " ".join([aspect.name, *(f"{sign}{count}" for sign, kind in signs if (count := getattr(aspect, kind)))])
        for aspect in listing.aspects
    )


FIELD_VALUES: Mapping[str, Callable[[Listing], FieldValue | None]] = {
    "title": lambda listing: listing.title,
    "description": lambda listing: listing.description,
    "brand": lambda listing: listing.brand,
    "category": lambda listing: listing.category,
    "price": _price,
    "attributes": lambda listing: listing.attributes,
    "rating": lambda listing: listing.rating,
    "reviews": lambda listing: listing.reviews,
    "in_stock": lambda listing: listing.in_stock,
    "aspects": _aspects,
}


def field_key(value: FieldValue) -> FieldKey | None:
    """The value in hashable form; None if it is too large to be cached."""
    if isinstance(value, str):
        return value if len(value) <= _LONGEST_KEPT else None
    if isinstance(value, (bool, float, int)):
        return value
    if len(value) > _MOST_PARTS_KEPT:
        return None
    if isinstance(value, (dict, Mapping)):  # the check for dict is faster
        pairs = tuple(value.items())
        return pairs if sum(map(len, itertools.chain.from_iterable(pairs))) <= _LONGEST_KEPT else None
    return tuple(value) if sum(map(len, value)) <= _LONGEST_KEPT else None


Neutralise = Callable[[str, bool], tuple[str, bool]]
"""Makes a text harmless and says whether that changed it; see `neutraliser`."""


def neutraliser(own: re.Pattern[str]) -> Neutralise:
    """A function that makes a text harmless, and says whether that changed more than cleaning does.

    Args:
        own: What to remove in any case, see `genrank.text.injection.neutralise`; it also explains `keep`, the
            function's second argument.
    """

    def harmless(text: str, keep: bool) -> tuple[str, bool]:
        found = neutralise(text, own, keep=keep)
        return found, found != clean(text)

    return harmless


class FieldReader:
    """Reads what shops and shoppers wrote, as far as it may be shown.

    Args:
        harmless: What `neutraliser` returned; None: texts are only cleaned.

    Attributes:
        changed: Texts that neutralising changed.
        unread: Characters that were not read because they cannot be among the tokens that are shown; of a value with
            very many parts an estimate.
    """

    def __init__(self, harmless: Neutralise | None) -> None:
        self._harmless = harmless
        self.changed: int = 0
        self.unread: int = 0

    def text(self, text: str, tokens: int, *, keep: bool = False) -> str:
        """One text of which at most `tokens` tokens are shown; see `genrank.text.injection.neutralise` for `keep`."""
        most = _most_read(tokens)
        if len(text) > most:
            self.unread += len(text) - most
            text = text[:most]
        if self._harmless is None:
            return clean(text)
        harmless, changed = self._harmless(text, keep)
        self.changed += changed
        return harmless

    def parts(self, parts: Iterable[tuple[str, ...]], count: int, tokens: int) -> list[tuple[str, ...]]:
        """The first of `count` parts of a value, as many as may be shown.

        A part is one text, or a name and a value; it is left out where neutralising leaves nothing of its value.
        """
        kept: list[tuple[str, ...]] = []
        rest = iter(parts)
        chars_read = chars_left = done = 0
        while done < count and chars_read < _most_read(tokens) and chars_left <= tokens * _CHARS_PER_TOKEN:
            part = next(rest)
            read = tuple(self.text(text, tokens) for text in part)
            done += 1
            chars_read += _length(part)
            if len(part) == 1 or read[-1] or not part[-1]:
                chars_left += sum(map(len, read))
                kept.append(read)
        if unread := count - done:
            measured = [_length(part) for part in itertools.islice(rest, _PARTS_MEASURED)]
            self.unread += sum(measured) * unread // len(measured)
        return kept

    def path(self, names: Sequence[str], tokens: int) -> str:
        """A category path in one line."""
        most = _most_read(tokens)
        self.unread += sum(map(len, names[most:])) + len(_PATH_SIGN) * max(0, len(names) - most)
        return self.text(_PATH_SIGN.join(names[:most]), tokens)


def field_text(field: str, value: FieldValue, style: str, reader: FieldReader, tokens: int) -> str:
    """One field as a prompt shows it; empty where it says nothing.

    Args:
        field: Its name.
        value: Its value.
        style: The template's `values`: ``text``, ``lines`` or ``json``.
        reader: Reads it.
        tokens: The most tokens that may be shown.
    """
    as_json = style == "json"
    match value:
        case str():
            text = reader.text(value, tokens, keep=field == "title")
            return json.dumps(text, ensure_ascii=False) if as_json and text else text
        case bool():
            return json.dumps(value) if as_json else "yes" if value else "no"
        case float() | int():
            return json.dumps(value) if as_json else number_text(value)
        case Mapping():
            read = dict(cast(list[tuple[str, str]], reader.parts(value.items(), len(value), tokens)))
            lines = [clean(f"{name}: {part}") for name, part in read.items()]
            text = clean(", ".join(f"{name}: {part}" for name, part in read.items()))
            if style == "lines":
                return "\n  ".join(lines)
            return json.dumps(read, ensure_ascii=False) if as_json and text else text
    if field == "category" and not as_json:
        return reader.path(value, tokens)
    texts = [text for (text,) in reader.parts(zip(value, strict=False), len(value), tokens)]
    text = clean(" / ".join(texts))
    return json.dumps(texts, ensure_ascii=False) if as_json and text else text


def readable(text: str, tokens: int) -> tuple[str, int]:
    """The head of a text that may matter for `tokens` tokens, and how many characters were left unread."""
    most = tokens * _CHARS_PER_TOKEN
    return text[:most], max(0, len(text) - most)


def _most_read(tokens: int) -> int:
    """The most characters that are read of a text of which `tokens` tokens may be shown."""
    return tokens * _CHARS_PER_TOKEN * _CHARS_PER_CHAR_LEFT


def _length(part: Iterable[str]) -> int:
    """Characters of a part of a value, with the signs around it."""
    return sum(len(text) + len(", ") for text in part)
