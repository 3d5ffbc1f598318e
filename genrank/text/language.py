"""Which language a query is in, where that decides how it is answered."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import Literal

from genrank.text.clean import clean

Language = Literal["en", "zh", "other"]
"""A language that reasons are worded in, or any other."""

HAN = "\u3400-\u4dbf\u4e00-\u9fff"
KANA = "\u3040-\u30ff"
HANGUL = "\uac00-\ud7af"
"""Ranges of characters for a class in a pattern."""

LATIN_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")

_OTHER_LATIN = """
aus avec azul bianco blanc blanco blau bleu chaussures con damen das der des di donna du el et femme für gli grün
herren hombre homme il kleid la las le les los mit mujer negro nero noir ohne para robe roja rojo rosso rot
rote rotes rouge sans scarpe schuhe schwarz sin und uomo verde vert vestido weiß y zapatos
"""
"""Words that tell German, French, Spanish and Italian from English."""


def language(text: str) -> Language:
    """The language of a query, if reasons can be worded in it.

    Chinese for Han without kana; English for ASCII words, unless one of them belongs to another language; else
    ``other``.
    """
    script = scripts(clean(text))
    if script["han"]:
        return "other" if script["kana"] or script["hangul"] else "zh"
    words = LATIN_WORD.findall(clean(text).casefold())
    if not words or not all(word.replace("’", "'").isascii() for word in words):
        return "other"
    return "other" if set(words) & set(_OTHER_LATIN.split()) else "en"


def scripts(text: str) -> Counter[str]:
    """How many words of each script a text has; a character counts as one where no spaces are written."""
    counts: Counter[str] = Counter()
    for name, form in (("han", HAN), ("kana", KANA), ("hangul", HANGUL)):
        counts[name] = len(re.findall(f"[{form}]", text))
    for word in re.findall(f"[^\\W\\d_{HAN}{KANA}{HANGUL}]+", text):
        counts[unicodedata.name(word[0], "other").split()[0].lower()] += 1
    return +counts
