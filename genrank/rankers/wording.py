"""What a text names: colours, sizes with their unit, numbers, a limit on the price. In English and Chinese."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping

from genrank.text.clean import clean

_COLOURS = {
    "black": ("black", "黑"),
    "white": ("white", "ivory", "白"),
    "grey": ("grey", "gray", "charcoal", "graphite", "灰"),
    "red": ("red", "burgundy", "maroon", "红"),
    "pink": ("pink", "粉"),
    "orange": ("orange", "coral", "橙", "橘"),
    "yellow": ("yellow", "mustard", "黄"),
    "green": ("green", "olive", "sage", "mint", "绿"),
    "blue": ("blue", "navy", "teal", "turquoise", "cyan", "蓝", "藏青"),
    "purple": ("purple", "violet", "lilac", "lavender", "plum", "紫"),
    "brown": ("brown", "tan", "camel", "cognac", "chocolate", "棕", "咖啡", "焦糖"),
    "beige": ("beige", "cream", "sand", "khaki", "米", "杏", "卡其"),
    "gold": ("gold", "golden", "金"),
    "silver": ("silver", "银"),
    "transparent": ("transparent", "透明"),
}
_COLOUR_OF = {word: colour for colour, words in _COLOURS.items() for word in words}
_ENGLISH_COLOUR = re.compile("(?<![a-z])(" + "|".join(word for word in _COLOUR_OF if word.isascii()) + ")(?![a-z])")
_CHINESE_COLOUR = "(" + "|".join(word for word in _COLOUR_OF if not word.isascii()) + ")"
_COLOUR_KEYS = ("colour", "color", "颜色")

# unit: what it measures, and how much of that
_UNITS: Mapping[str, tuple[str, float]] = {
    **dict.fromkeys(("mm", "millimeter", "millimetre", "毫米"), ("length", 0.1)),
    **dict.fromkeys(("cm", "centimeter", "centimetre", "厘米", "公分"), ("length", 1.0)),
    **dict.fromkeys(("m", "meter", "metre", "米"), ("length", 100.0)),
    **dict.fromkeys(("in", "inch", "inche", '"', "”", "寸", "英寸"), ("length", 2.54)),
    **dict.fromkeys(("ft", "foot", "feet", "'", "’", "英尺"), ("length", 30.48)),
    **dict.fromkeys(("mg", "毫克"), ("weight", 0.001)),
    **dict.fromkeys(("g", "gram", "克"), ("weight", 1.0)),
    **dict.fromkeys(("kg", "kilo", "kilogram", "千克", "公斤"), ("weight", 1000.0)),
    "斤": ("weight", 500.0),
    **dict.fromkeys(("oz", "ounce"), ("weight", 28.35)),
    **dict.fromkeys(("lb", "pound"), ("weight", 453.6)),
    **dict.fromkeys(("ml", "毫升"), ("volume", 1.0)),
    **dict.fromkeys(("l", "liter", "litre", "升"), ("volume", 1000.0)),
    **dict.fromkeys(("gal", "gallon"), ("volume", 3785.0)),
    **dict.fromkeys(("qt", "quart"), ("volume", 946.0)),
    "mb": ("memory", 0.001),
    "gb": ("memory", 1.0),
    "tb": ("memory", 1000.0),
    **dict.fromkeys(("w", "watt", "瓦"), ("power", 1.0)),
    **dict.fromkeys(("v", "volt", "伏"), ("voltage", 1.0)),
    "mah": ("charge", 1.0),
    **dict.fromkeys(("pack", "pk", "count", "ct", "pc", "piece", "片", "包", "件", "只", "个"), ("count", 1.0)),
    "码": ("shoe size", 1.0),
}
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
    """The colours of a listing: of its attribute of that name, else those that its `normal` title names."""
    for key, value in attributes.items():
        if normal(key) in _COLOUR_KEYS:
            value = normal(value)
            return colours(value) | {_COLOUR_OF[word] for word in re.findall(_CHINESE_COLOUR, value)}
    return colours(title)


def sizes(text: str) -> frozenset[Size]:
    """Sizes that a `normal` text names, as what is measured and how much, such as ``("length", 91.44)`` in cm."""
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
