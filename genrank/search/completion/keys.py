"""The forms of a text that what is typed is compared with."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from genrank.errors import MissingExtraError
from genrank.text.clean import clean
from genrank.text.language import HAN, language

_HAN_RUN = re.compile(f"([{HAN}]+)")
_WORD = re.compile(r"[a-z]{4,}")  # shorter words are too close to others
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def key(text: str) -> str:
    """A text in lower case and NFKC, on one line."""
    return clean(unicodedata.normalize("NFKC", text).lower())


def typed_key(prefix: str) -> str:
    """The key of an unfinished text: white space at its end ends its last word, so one space stays."""
    found = key(prefix)
    return f"{found} " if found and prefix[-1:].isspace() else found


def sounds(text: str) -> tuple[str, ...]:
    """A Chinese text in pinyin, without tones and spaces, and the same by initials; nothing for other languages.

    Raises:
        MissingExtraError: When pypinyin is not installed.
    """
    if language(text) != "zh":
        return ()
    whole = initials = ""
    for part in _HAN_RUN.split(text.replace(" ", "")):
        syllables = _pinyin(part) if _HAN_RUN.match(part) else [part]
        whole += "".join(syllables)
        initials += "".join(one[:1] for one in syllables) if _HAN_RUN.match(part) else part
    return tuple(dict.fromkeys((whole, initials)))


def sound(typed: str) -> str:
    """What was typed as pinyin: 连衣q, as input methods show it, is ``lianyiq``, and so is ``lian yi q``."""
    return "".join("".join(_pinyin(part)) if _HAN_RUN.match(part) else part for part in _HAN_RUN.split(_joined(typed)))


def misspelt(typed: str) -> Iterator[str]:
    """What may have been meant, if one letter of a word of four or more is wrong, not its first.

    A letter is left out, too many, another one, or swapped with the next.
    """
    for word in _WORD.finditer(typed):
        for at in range(word.start() + 1, word.end() + 1):
            before, after = typed[:at], typed[at:]
            yield from (before + letter + after for letter in _LETTERS)
            if at < word.end():
                yield before + after[1:]
                yield from (before + letter + after[1:] for letter in _LETTERS if letter != after[0])
            if at + 1 < word.end() and after[0] != after[1]:
                yield before + after[1] + after[0] + after[2:]


def _joined(text: str) -> str:
    return text.replace(" ", "")


def _pinyin(text: str) -> list[str]:
    try:
        from pypinyin import lazy_pinyin
    except ImportError:
        raise MissingExtraError("pypinyin", "search") from None
    return list(lazy_pinyin(text))
