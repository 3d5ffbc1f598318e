"""Finds colours, sizes with their units, numbers and price limits in English and Chinese texts."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping

from genrank.reasons import lexicon
from genrank.text.clean import clean

_COLOUR_OF = lexicon.COLOUR_FAMILIES
_ENGLISH_COLOUR = re.compile("(?<![a-z])(" + "|".join(word for word in _COLOUR_OF if word.isascii()) + ")(?![a-z])")
_CHINESE_COLOUR = "(" + "|".join(word for word in _COLOUR_OF if not word.isascii()) + ")"
_COLOUR_KEYS = ("colour", "color", "颜色")

# what the lexicon's dimensions are called here, and how many of this module's units (cm, g, ml, GB) make one of theirs
_DIMENSIONS = {
    "length": ("length", 100.0),
    "mass": ("weight", 1.0),
    "volume": ("volume", 1000.0),
    "data": ("memory", 1.0),
    "power": ("power", 1.0),
    "voltage": ("voltage", 1.0),
    "charge": ("charge", 1.0),
    "count": ("count", 1.0),
}
# the units that rankers were trained with
_READ = """
mm millimeter millimetre 毫米 cm centimeter centimetre 厘米 公分 m meter metre 米 in inch " 寸 英寸 ft foot feet ' 英尺
mg 毫克 g gram 克 kg kilo kilogram 千克 公斤 斤 oz ounce lb pound ml 毫升 l liter litre 升 gal gallon qt quart mb gb tb
w watt 瓦 v volt 伏 mah pack pk count ct pc piece 片 包 件 只 个
"""
_UNITS: Mapping[str, tuple[str, float]] = {
    name: (kind, float(f"{factor * scale:.4g}"))
    for dimension, (kind, scale) in _DIMENSIONS.items()
    for name, factor in lexicon.UNITS[dimension].items()
    if name in _READ.split()
}
# other spellings of units, and one that is not a unit in the lexicon
_UNITS = {**_UNITS, "inche": _UNITS["inch"], "”": _UNITS['"'], "’": _UNITS["'"], "码": ("shoe size", 1.0)}
_UNIT = "|".join(sorted(map(re.escape, _UNITS), key=len, reverse=True))
_DIGITS = r"(?<![\d.])\d{1,9}(?:\.\d{1,6})?"  # bounded, so that a megabyte of digits is read in one go
_SIZE = re.compile(rf"(?<!/)({_DIGITS})[ -]?({_UNIT})s?(?![a-z0-9])")
_LETTERS = ("xxs", "xs", "s", "m", "l", "xl", "xxl", "xxxl")
_LETTER_SIZE = re.compile(r"(?<![a-z0-9])(?:size (s|m|l)|(xxs|xs|xl|xxl|xxxl))(?![a-z0-9])")
_NUMBERED_SIZE = re.compile(rf"(?<![a-z])size ({_DIGITS})")
_NUMBER = re.compile(_DIGITS)
_LIMIT = re.compile(
    rf"(?:under|below|less than|up to|cheaper than|max|不超过|低于) ?[$€£¥]? ?({_DIGITS})(?![\d.]| ?[a-z\"'%])"
    rf"|({_DIGITS}) ?(?:元|块钱?|rmb)(?:以内|以下|之内)"
)

Size = tuple[str, float]


def normal(text: str) -> str:
    """A text as one line in lower case and one width (NFKC)."""
    return unicodedata.normalize("NFKC", clean(text)).lower()


def colours(text: str) -> frozenset[str]:
    """The colours that a `normal` text names; a Chinese one only before 色, since 红茶 is a tea."""
    found = _ENGLISH_COLOUR.findall(text) + re.findall(_CHINESE_COLOUR + "色", text)
    return frozenset(_COLOUR_OF[word] for word in found)


def listing_colours(title: str, attributes: Mapping[str, str]) -> frozenset[str]:
    """The colours of a listing: from its colour attribute, or else those that its `normal` title names."""
    for key, value in attributes.items():
        if normal(key) in _COLOUR_KEYS:
            value = normal(value)
            return colours(value) | {_COLOUR_OF[word] for word in re.findall(_CHINESE_COLOUR, value)}
    return colours(title)


def sizes(text: str) -> frozenset[Size]:
    """Sizes that a `normal` text names, as dimension and value, such as ``("length", 91.44)`` in cm."""
    found: set[Size] = set()
    for number, unit in _SIZE.findall(text):
        kind, factor = _UNITS[unit]
        found.add((kind, round(float(number) * factor, 3)))
    found.update(("letter", float(_LETTERS.index(named or bare))) for named, bare in _LETTER_SIZE.findall(text))
    found.update(("shoe size", float(number)) for number in _NUMBERED_SIZE.findall(text))
    return frozenset(found)


def same_size(one: Size, other: Size) -> bool:
    """Whether two sizes are equal up to the rounding of their units, 1 %."""
    return one[0] == other[0] and math.isclose(one[1], other[1], rel_tol=0.01)


def numbers(text: str) -> frozenset[str]:
    """The numbers of a `normal` text, as written."""
    return frozenset(_NUMBER.findall(text))


def price_limit(text: str) -> float | None:
    """The highest price that a `normal` query allows, such as 800 of "laptop under 800"; None without one."""
    match = _LIMIT.search(text)
    return float(match.group(1) or match.group(2)) if match else None
