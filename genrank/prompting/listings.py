"""Turns listings into tokens."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from genrank.engines.tokenizer import Encoded, Tokenizer
from genrank.prompting.fields import (
    FIELD_VALUES,
    FieldKey,
    FieldReader,
    FieldValue,
    Neutralise,
    field_key,
    field_text,
    readable,
)
from genrank.prompting.template import Template
from genrank.types import Listing

MIN_LISTING_TOKENS = 4
"""The fewest tokens to which a listing in a window is cut."""

_MIN_PART_TOKENS = 4
_FIELDS_KEPT = 8192


@dataclass(frozen=True, slots=True)
class EncodedListing:
    """A listing's fields as tokens, the most important first.

    Attributes:
        parts: One for each field that the listing has; the title comes first.
        tokens: Number of tokens in all parts.
        lost: Tokens beyond a field's limit, plus an estimate of those that were not even read.
        changed: Number of texts that neutralising changed.
    """

    parts: Sequence[Encoded]
    tokens: int
    lost: int
    changed: int

    def cut(self, room: int) -> list[int]:
        """The fields that fit into `room` tokens; the first that does not fit is cut, and the title is always kept."""
        ids: list[int] = []
        for i, part in enumerate(self.parts):
            left = room - len(ids)
            if len(part.ids) > left and left < _MIN_PART_TOKENS and i:
                break
            ids += part.head(left).ids
        return ids


class ListingEncoder:
    """Turns listings into tokens, field by field, as a template writes them.

    Args:
        template: Says which fields are shown, and how.
        tokenizer: The model's tokenizer.
        harmless: Neutralises a text, see `genrank.prompting.fields.neutraliser`; None leaves texts as they are.
    """

    def __init__(self, template: Template, tokenizer: Tokenizer, harmless: Neutralise | None) -> None:
        self._template = template
        self._tokenizer = tokenizer
        self._harmless = harmless
        self._fields = [(field, FIELD_VALUES[field], template.limits.fields.get(field)) for field in template.fields]
        # the same listings appear for many queries; typed, because 1, 1.0 and True are shown differently
        self._known = functools.lru_cache(maxsize=_FIELDS_KEPT, typed=True)(self._read_key)
        self._tokens: dict[str, Encoded] = {}  # by a field's text, the oldest first
        self._lock = threading.Lock()

    def encode(self, listings: Sequence[Listing], limit: int) -> list[EncodedListing]:
        """Encode listings, all of their fields in one call of the tokenizer.

        Args:
            listings: ``[n]`` listings.
            limit: The most tokens of each that may be shown.
        """
        texts: list[str] = []
        unread: list[int] = []
        limits: list[int | None] = []
        counts: list[tuple[int, int]] = []  # of each listing: fields, texts changed
        for listing in listings:
            before, changed = len(texts), 0
            for field, value_of, most in self._fields:
                value = value_of(listing)
                if not value and not isinstance(value, (bool, float, int)):
                    continue
                key = field_key(value)
                read = self._read(field, value, limit) if key is None else self._known(field, key, limit)
                text, unread_chars, texts_changed = read
                changed += texts_changed
                if text:
                    texts.append(text)
                    unread.append(unread_chars)
                    limits.append(most)
            counts.append((len(texts) - before, changed))
        fields = zip(self._encode(texts), unread, limits, strict=True)
        return [_encoded_listing(itertools.islice(fields, count), changed) for count, changed in counts]

    def _encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Each text as tokens; only texts that are new are encoded, in one call of the tokenizer."""
        known = self._tokens
        found = {text: known.get(text) for text in texts}
        if new := [text for text, encoded in found.items() if encoded is None]:
            made = dict(zip(new, self._tokenizer.encode(new), strict=True))
            found |= made
            with self._lock:
                known |= made
                while len(known) > _FIELDS_KEPT:
                    del known[next(iter(known))]
        return [cast(Encoded, found[text]) for text in texts]

    def _read_key(self, field: str, key: FieldKey, limit: int) -> tuple[str, int, int]:
        value = dict(cast(tuple[tuple[str, str], ...], key)) if field == "attributes" else cast(FieldValue, key)
        return self._read(field, value, limit)

    def _read(self, field: str, value: FieldValue, limit: int) -> tuple[str, int, int]:
        """A field's text in the prompt, how many characters were not read, and how many texts were changed."""
        reader = FieldReader(self._harmless)
        text, unread = readable(field_text(field, value, self._template.values, reader, limit), limit)
        shown = self._template.fields[field].replace("{value}", text) if text else ""
        return shown, unread + reader.unread, reader.changed


def unread_tokens(encoded: Encoded, chars: int) -> int:
    """How many tokens `chars` unread characters would be, estimated from those that were read."""
    return -(-chars * len(encoded.ids) // max(1, encoded.ends[-1])) if chars and encoded.ids else 0


def _encoded_listing(fields: Iterable[tuple[Encoded, int, int | None]], changed: int) -> EncodedListing:
    """A listing made from fields, each with its number of unread characters and its own limit."""
    parts = []
    tokens = whole = 0
    for part, unread, most in fields:
        shown = part if most is None else part.head(most)
        parts.append(shown)
        tokens += len(shown.ids)
        whole += len(part.ids) + (unread_tokens(part, unread) if unread else 0)
    return EncodedListing(parts, tokens, whole - tokens, changed)
