"""A suggestion, and what may be one."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

from genrank.text.clean import clean
from genrank.text.injection import neutralise
from genrank.text.words import words

Source = Literal["query", "category", "brand", "attribute", "title"]
"""Where a suggestion comes from; ``query`` also where the catalogue has it too."""

Match = Literal["prefix", "sound", "spelling", "words"]
"""How a suggestion fits: it begins with what was typed; in pinyin; after one correction; or only its last words do."""

LONGEST = 60
"""Characters of a suggestion, at most."""

_MOST_WORDS = 8
_PRIVATE = re.compile(r"[^\s@]+@[^\s@]+\.|://|\bwww\.|(?:\d[\s-]?){9}")  # addresses, and phone or card numbers


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What a shopper may be about to type.

    Attributes:
        text: The whole query.
        score: 0 to 1, by frequency and by the model's judgement.
        source: Where it comes from.
        match: How it fits what was typed.
    """

    text: str
    score: float
    source: Source
    match: Match

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {"text": self.text, "score": round(self.score, 4), "source": self.source, "match": self.match}


def suggestible(blocked: Collection[str]) -> Callable[[str], bool]:
    """A test for texts that may be suggested.

    They are short, hold a letter, no address and no long number, nothing that speaks to a model
    (`genrank.text.injection`), and none of the blocked words.

    Args:
        blocked: Words or phrases; in any script, upper and lower case alike.
    """
    phrases = [_spaced(one) for one in blocked]

    def test(text: str) -> bool:
        if not 0 < len(text) <= LONGEST or clean(text) != text or not any(map(str.isalpha, text)):
            return False
        if len(text.split(" ")) > _MOST_WORDS or _PRIVATE.search(text) or neutralise(text) != text:
            return False
        return not phrases or not any(phrase in _spaced(text) for phrase in phrases)

    return test


def _spaced(text: str) -> str:
    return f" {' '.join(words(text))} "
