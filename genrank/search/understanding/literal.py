"""What a query says in so many words, without a model: prices, and what must not be."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from genrank.text.language import HAN
from genrank.text.words import words

_SIGNS = {
    "US$": "USD", "$": "USD", "HK$": "HKD", "€": "EUR", "£": "GBP", "¥": "CNY", "￥": "CNY",
    "USD": "USD", "EUR": "EUR", "GBP": "GBP", "CNY": "CNY", "RMB": "CNY",
    "DOLLAR": "USD", "DOLLARS": "USD", "BUCKS": "USD", "EURO": "EUR", "EUROS": "EUR",
    "POUND": "GBP", "POUNDS": "GBP", "YUAN": "CNY",
    "元": "CNY", "块": "CNY", "块钱": "CNY", "人民币": "CNY", "美元": "USD", "欧元": "EUR",
}  # fmt: skip
_MONEY = (
    r"(?:US\$|HK\$|[$€£¥￥]|\b(?:usd|eur|gbp|cny|rmb|dollars?|bucks|euros?|pounds?|yuan)\b"
    r"|元|块钱?|美元|欧元|人民币)"
)
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)\s*(?:k\b|千|万)?"
_AMOUNT = rf"(?:{_MONEY}\s*)?{_NUMBER}(?:\s*{_MONEY})?"
_NUMBER_AND_TIMES = re.compile(r"([\d,.]+)\s*(k\b|千|万)?")
_TIMES = {"k": 1000.0, "千": 1000.0, "万": 10_000.0}

_RANGE = re.compile(
    rf"(?P<word>\b(?:between|from)\s+|从)?(?P<first>{_AMOUNT})\s*(?:-|–|~|到|至|\bto\b|\band\b)\s*(?P<second>{_AMOUNT})",
    re.IGNORECASE,
)
_MOST_BEFORE = (
    r"\b(?:under|below|less than|cheaper than|up to|at most|max(?:imum)?|no more than|within)\b"
    r"|不超过|不到|低于|少于|最多"
)
_MOST_AFTER = r"以内|以下|之内|\bor (?:less|under)\b|\bmax\b"
_LEAST_BEFORE = r"\b(?:over|above|more than|at least|min(?:imum)?)\b|不低于|高于|超过|至少"
_LEAST_AFTER = r"以上|\bor more\b|\band up\b"
_MOST, _LEAST = (
    re.compile(rf"(?:{before})\s*(?P<behind>{_AMOUNT})|(?P<ahead>{_AMOUNT})\s*(?:{after})", re.IGNORECASE)
    for before, after in ((_MOST_BEFORE, _MOST_AFTER), (_LEAST_BEFORE, _LEAST_AFTER))
)
_OTHER_UNIT = re.compile(
    r"\s*(?:%|°|\w*(?:mm|cm|km|inch|inches|ft|ml|litres?|liters?|kg|lbs?|oz|gb|tb|mah|w|watts?|v|hz|years?|months?|days?"
    r"|hours?|pieces?|pcs|people|persons?)\b"
    r"|岁|个?月|天|小时|厘米|毫米|米|寸|英寸|升|毫升|公斤|千克|克|斤|瓦|人|件|只|片|码|号|度|g\b)",
    re.IGNORECASE,
)

_WITHOUT = re.compile(
    r"\b(?:without(?:\s+(?:any|added))?|with\s+no|free\s+(?:of|from)|but\s+not|not|no|non|except|excluding)\b[\s-]+"
    r"(?:an?\s+|the\s+)?(?P<word>[^\W\d_][\w'-]*)"
    r"|(?P<free>[^\W\d_]\w*)-free\b",
    re.IGNORECASE,
)
_WITHOUT_HAN = re.compile(rf"(?P<sign>不要|不含|不带|没有|不是|除了|非|无|免)(?P<word>[{HAN}A-Za-z]+)")

_NUMBER_WORDS = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
}  # fmt: skip
_NUMBER_WORD = re.compile(rf"\b(?:{'|'.join(_NUMBER_WORDS)})\b", re.IGNORECASE)
_HAN_NUMBERS = {"单": 1, "一": 1, "双": 2, "两": 2, "二": 2, "三": 3, "四": 4, "五": 5, "六": 6}
_HAN_NUMBER = re.compile(rf"[{''.join(_HAN_NUMBERS)}](?=[人件只片条双套口层])")


@dataclass(frozen=True, slots=True)
class Money:
    """The prices that a query allows.

    Attributes:
        least: The lowest; None without one.
        most: The highest; None without one.
        currency: ISO 4217 code; empty where the query names none.
    """

    least: float | None = None
    most: float | None = None
    currency: str = ""


def prices(text: str) -> tuple[Money, str]:
    """The prices that a query allows, and the rest of its words.

    A number with another unit (``under 10 kg``) is no price, nor is a range of bare numbers (``2-4 years``).
    """
    text = " ".join(unicodedata.normalize("NFKC", text).split())
    for pattern in (_RANGE, _MOST, _LEAST):
        for match in pattern.finditer(text):
            money = _range(match) if pattern is _RANGE else _one_side(match, most=pattern is _MOST)
            if money is not None and (money.currency or not _OTHER_UNIT.match(text, match.end())):
                return money, " ".join(f"{text[: match.start()]} {text[match.end() :]}".split())
    return Money(), text


def exclusions(text: str, is_word: Callable[[str], bool], is_value: Callable[[str], bool]) -> tuple[list[str], str]:
    """What a query does not want, and the rest of its words.

    Args:
        text: The query.
        is_word: Whether the catalogue has a word. In Chinese, the longest of its words after the negation is what is
            not wanted.
        is_value: Whether an attribute has a value. A whole phrase that is one (免打孔, non-stick) is no negation.
    """
    found: list[str] = []

    def take(match: re.Match[str]) -> str:
        phrase = " ".join(words(match[0]))
        if is_value(phrase) or is_value(phrase.replace(" ", "-")):
            return match[0]
        found.append((match["word"] or match["free"]).lower())
        return " "

    def take_han(match: re.Match[str]) -> str:
        sign, word = match["sign"], match["word"]
        lengths = range(len(word), 0, -1)
        if not any(is_value(sign + word[:length]) for length in lengths):
            for length in lengths:
                if is_word(word[:length]):
                    found.append(word[:length])
                    return f" {word[length:]}"
        return match[0]

    rest = _WITHOUT_HAN.sub(take_han, _WITHOUT.sub(take, text))
    return list(dict.fromkeys(found)), " ".join(rest.split())


def with_digits(text: str) -> str:
    """A text with its number words as digits: ``two people`` is ``2 people``, 双人 is 2人."""
    text = _NUMBER_WORD.sub(lambda match: str(_NUMBER_WORDS[match[0].lower()]), text)
    return _HAN_NUMBER.sub(lambda match: str(_HAN_NUMBERS[match[0]]), text)


def _range(match: re.Match[str]) -> Money | None:
    currency = _currency(match[0])
    if not currency and not match["word"]:
        return None
    least, most = sorted((_amount(match["first"]), _amount(match["second"])))
    return Money(least, most, currency)


def _one_side(match: re.Match[str], *, most: bool) -> Money:
    amount, currency = _amount(match["behind"] or match["ahead"]), _currency(match[0])
    return Money(most=amount, currency=currency) if most else Money(least=amount, currency=currency)


def _amount(text: str) -> float:
    ((number, times),) = _NUMBER_AND_TIMES.findall(text.lower())
    return float(number.replace(",", "")) * _TIMES.get(times, 1.0)


def _currency(text: str) -> str:
    found = re.search(_MONEY, text, re.IGNORECASE)
    return _SIGNS[found[0].upper()] if found else ""
