"""Splits a text in any script into words. What counts as a word is decided here and nowhere else.

- A word is a run of letters and digits with their marks, so a vowel sign or an accent stays with its letter.
- Chinese is cut by `cut_han`, by default into single characters; a run of kana is one word.
- Thai, Lao, Khmer and Burmese put no spaces between words, so each run becomes overlapping pairs of grapheme clusters
  (what a reader sees as one character). This needs no dictionary, and two texts with a word in common share its pairs.
- An emoji is one word, whatever its parts: a flag, a family, a skin tone.
- ``C++``, ``C#`` and ``.NET`` are words.
- Any other sign separates words: ``AT&T`` is ``at``, ``t``, and ``3.5mm`` is ``3``, ``5mm``, in queries and listings
  alike. `whole` keeps signs between two digits, and those of ``-5`` and ``A+``, for comparisons in which 3.5 must not
  equal 5.3.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable

import regex

_HAN = r"\p{Script=Han}"
_KANA = "\u3040-\u30ff"
_UNSPACED = r"\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}"
_LETTER = rf"[[\p{{L}}\p{{N}}]--[{_HAN}{_KANA}{_UNSPACED}]]"
_PART = rf"[[\p{{L}}\p{{N}}\p{{M}}\u200c\u200d]--[{_HAN}{_KANA}{_UNSPACED}]]"
_EMOJI = r"[\p{Emoji}--[0-9#*©®™‼⁉ℹ↔-↪▪▫▶◀]]"


_NAMED = r"(?<![\p{L}\p{N}\p{M}+#])(?:[a-z]{1,10}\+\+(?![+#])|(?:[a-z]#|\.net)(?![\p{L}\p{N}\p{M}+#]))"
_NUMBER = r"\d+(?:[.,/:x×-]\d+)+"
# A+ and O-, +5 and -5; a hyphen before a digit is a sign only where no word ends
_SIGNED = rf"(?<![\p{{L}}\p{{N}}\p{{M}}+-])(?:[+-](?:{_NUMBER}|\d+)[a-z]*|[a-z][+-](?![\p{{L}}\p{{N}}\p{{M}}+-]))"


@functools.cache
def _pattern(whole: bool) -> regex.Pattern[str]:
    number = f"|{_NUMBER}{_PART}*" if whole else ""
    signed = f"{_SIGNED}|" if whole else ""
    return regex.compile(
        rf"(?P<han>{_HAN}+)"
        rf"|(?P<unspaced>[[\p{{L}}\p{{N}}]&&[{_UNSPACED}]][[\p{{L}}\p{{N}}\p{{M}}]&&[{_UNSPACED}\p{{M}}]]*)"
        rf"|(?P<emoji>(?=[0-9#*]\ufe0f?\u20e3|\p{{Regional_Indicator}}|{_EMOJI})\X)"
        rf"|(?P<word>{signed}{_NAMED}{number}|[{_KANA}]+|{_LETTER}{_PART}*)",
        regex.VERSION1,
    )


@functools.cache
def _ascii_pattern(whole: bool) -> re.Pattern[str]:
    """The same for ASCII, where the standard library is three times as fast."""
    signs = f"{_SIGNED}|{_NAMED}|{_NUMBER}[a-z0-9]*" if whole else _NAMED
    return re.compile(signs.replace(r"\p{L}\p{N}\p{M}", "a-z0-9").replace(r"\p{L}\p{N}", "a-z0-9") + "|[a-z0-9]+")


def words(text: str, *, cut_han: Callable[[str], Iterable[str]] = list, whole: bool = False) -> list[str]:
    """The words of a text in order, in lower case and NFKC; the module's docstring defines a word.

    Args:
        text: Any text.
        cut_han: Cuts a run of Chinese characters into words.
        whole: Whether to keep numbers and grades whole: ``3.5mm``, ``1/2``, ``10-10-10``, ``-5``, ``A+``.
    """
    if text.isascii():
        return _ascii_pattern(whole).findall(text.lower())
    found: list[str] = []
    text = _normal(text)
    for match in _pattern(whole).finditer(text):
        if match.lastgroup == "han":
            found += cut_han(match[0])
        elif match.lastgroup == "unspaced":
            clusters = regex.findall(r"\X", _without_invisible(match[0]))
            found += map("".join, itertools.pairwise(clusters)) if len(clusters) > 1 else clusters
        else:
            found.append(_without_invisible(match[0]))
    return [word for word in found if word]


def searchable(text: str) -> str:
    """A text normalised as `words` does it; it contains every word of the text, so a quick search can exclude words."""
    return text.lower() if text.isascii() else _without_invisible(_normal(text))


def _normal(text: str) -> str:
    text = unicodedata.normalize("NFKC", _FRACTION.sub(r" \g<0>", text))
    for sign, plain in _ASCII_SIGNS:
        text = text.replace(sign, plain)
    lower = text.lower().replace("i\u0307", "i")  # İ
    return unicodedata.normalize("NFKC", lower) if lower != text else text


def _without_invisible(text: str) -> str:
    for char in _INVISIBLE:
        text = text.replace(char, "")
    return text


# replaced one by one: str.translate looks at every character, which takes ten times as long
_ASCII_SIGNS = (("\u2044", "/"), ("\u2212", "-"))  # of ½, and the minus
_INVISIBLE = "\u0640\u200c\u200d\ufe0f"  # with the stroke that stretches Arabic words
_FRACTION = re.compile("(?<=[0-9])[¼-¾⅐-⅞]")  # 1½ is no 11/2
