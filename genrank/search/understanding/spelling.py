"""Corrects words of a query that neither the language nor the catalogue has."""

from __future__ import annotations

import functools
import importlib.resources
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from genrank.errors import MissingExtraError
from genrank.search.bm25 import tokenise
from genrank.text.language import HAN, LATIN_WORD

_SHORTEST = 4  # letters; shorter words are too close to others
_LONG = 8  # letters from which two may be wrong
_RARE = 10  # occurrences in jieba's dictionary, below which a word may be a slip of the pen
_LONGEST_HAN = 5  # characters
_HAN_RUN = re.compile(f"[{HAN}]+")


class Spelling:
    """Corrects a query to the nearest words of a catalogue.

    An English word is wrong if neither the catalogue nor symspellpy's dictionary has it. It becomes the catalogue's
    most frequent word that differs by one letter (added, left out, replaced or swapped with its neighbour), or by two
    in words of 8 letters or more. Chinese is typed by its sound: characters that are no word of the catalogue, nor a
    usual one in jieba's dictionary, become a word of the catalogue that sounds the same but for tones and shares a
    character.

    Args:
        words: ``{word: listings}`` of the catalogue.

    Raises:
        MissingExtraError: When symspellpy or pypinyin is not installed.
    """

    def __init__(self, words: Mapping[str, int]) -> None:
        self._words = words
        self._latin = _symspell()
        self._by_sound: dict[str, list[str]] = defaultdict(list)
        for word, count in words.items():
            if len(word) >= _SHORTEST and LATIN_WORD.fullmatch(word):
                self._latin.create_dictionary_entry(word, count)
            elif len(word) > 1 and _HAN_RUN.fullmatch(word):
                self._by_sound[_sound(word)].append(word)

    def correct(self, text: str) -> str:
        """The text with its spelling corrected; the text itself where nothing is known to be wrong."""
        return _HAN_RUN.sub(self._correct_han, LATIN_WORD.sub(self._correct_latin, text))

    def _correct_latin(self, match: re.Match[str]) -> str:
        from symspellpy import Verbosity

        word = match[0].lower()
        if len(word) < _SHORTEST or not word.isascii() or self._knows(word):
            return match[0]
        near = self._latin.lookup(word, Verbosity.TOP, max_edit_distance=2 if len(word) >= _LONG else 1)
        return str(near[0].term) if near else match[0]

    def _knows(self, word: str) -> bool:
        forms = {word, *word.split("-"), *tokenise(word, stem=True)}
        return any(form in self._words or form in _english() for form in forms)

    def _correct_han(self, match: re.Match[str]) -> str:
        text = match[0]
        for length in range(min(_LONGEST_HAN, len(text)), 1, -1):
            for at in range(len(text) - length + 1):
                word = text[at : at + length]
                if word in self._words or is_usual(word):
                    continue
                near = [other for other in self._by_sound.get(_sound(word), ()) if set(other) & set(word)]
                if near:
                    text = text[:at] + max(near, key=lambda one: (self._words[one], one)) + text[at + length :]
        return text


def is_usual(word: str) -> bool:
    """Whether jieba's dictionary has a Chinese word, and not as a rare one.

    Raises:
        MissingExtraError: When jieba is not installed.
    """
    tokenise("中")  # loads it quietly, or says what is missing
    import jieba

    jieba.initialize()
    return (jieba.dt.FREQ.get(word) or 0) >= _RARE


def _sound(word: str) -> str:
    try:
        from pypinyin import lazy_pinyin
    except ImportError:
        raise MissingExtraError("pypinyin", "search") from None
    return " ".join(lazy_pinyin(word))


def _symspell() -> Any:
    try:
        from symspellpy import SymSpell
    except ImportError:
        raise MissingExtraError("symspellpy", "search") from None
    return SymSpell(max_dictionary_edit_distance=2, prefix_length=7)


@functools.cache
def _english() -> frozenset[str]:
    """The English words that symspellpy knows."""
    file = importlib.resources.files("symspellpy") / "frequency_dictionary_en_82_765.txt"
    return frozenset(line.split()[0] for line in file.read_text("utf-8-sig").splitlines() if line)
