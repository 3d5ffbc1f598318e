"""Filters: which listings a search may return."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from genrank.errors import InputError, shown
from genrank.text.clean import clean

_BETWEEN = re.compile(r"\s*[、，;；]\s*|,\s+")


@dataclass(frozen=True)
class Filters:
    """Conditions that a listing must meet, all of them.

    A listing that does not say what a condition asks for does not meet it: one without a price is never within a price
    range, one with unknown stock is neither in stock nor out of it. Texts are compared exactly, upper and lower case
    included.

    Attributes:
        price_min: Least price, included.
        price_max: Greatest price, included.
        currency: The price's currency. Without it, amounts are compared in whatever currency they are.
        category: The beginning of the category path, such as ``("Women", "Dresses")``; a text is a path of one.
        brand: The brand.
        in_stock: True for what can be bought now, False for what cannot.
        attributes: Attributes with their values, such as ``{"colour": "red"}``. A part of a listing's value will do
            (`value_parts`).
        seller_id: Who sells it.
        without_words: Words or groups of words. A listing whose indexed text holds all words of one of them is left
            out; words are cut as in `genrank.search.bm25.tokenise`.
        without_ids: Ids of listings to leave out.

    Raises:
        InputError: When a value is wrong.
    """

    price_min: float | None = None
    price_max: float | None = None
    currency: str | None = None
    category: tuple[str, ...] = ()
    brand: str | None = None
    in_stock: bool | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    seller_id: str | None = None
    without_words: tuple[str, ...] = ()
    without_ids: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name in ("price_min", "price_max"):
            object.__setattr__(self, name, _amount(name, getattr(self, name)))
        if self.price_min is not None and self.price_max is not None and self.price_min > self.price_max:
            found = f"{self.price_min} is more than the price_max of {self.price_max}; exchange them"
            raise InputError(found, field="price_min")
        for name in ("currency", "brand", "seller_id"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise InputError(f"must be text, got {shown(value)}; leave it out for any", field=name)
        if self.in_stock is not None and not isinstance(self.in_stock, bool):
            raise InputError(f"must be True, False or None, got {shown(self.in_stock)}", field="in_stock")
        category = (self.category,) if isinstance(self.category, str) else self.category
        object.__setattr__(self, "category", tuple(_texts("category", category)))
        object.__setattr__(self, "without_words", tuple(_texts("without_words", self.without_words)))
        object.__setattr__(self, "without_ids", frozenset(_texts("without_ids", self.without_ids)))
        if not isinstance(self.attributes, Mapping):
            found = shown(self.attributes)
            raise InputError(f"must be names with values, such as {{'colour': 'red'}}, got {found}", field="attributes")
        for name, value in self.attributes.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise InputError(f"must be text, got {shown(value)}", field=f"attributes.{name}")
        object.__setattr__(self, "attributes", dict(self.attributes))


def value_parts(value: str) -> list[str]:
    """The parts of an attribute's value that can be asked for by themselves: ``gas, electric`` has two."""
    return [part for part in _BETWEEN.split(clean(value)) if part]


def _amount(name: str, value: Any) -> float | None:
    if value is None:
        return None
    try:
        amount = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError, OverflowError):
        amount = math.nan
    if not math.isfinite(amount) or amount < 0:
        raise InputError(f"must be a number of 0 or more, in units of the currency, got {shown(value)}", field=name)
    return amount


def _texts(name: str, values: Any) -> Iterable[str]:
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise InputError(f"must be a list of texts, got {shown(values)}", field=name)
    for i, value in enumerate(found := list(values)):
        if not isinstance(value, str) or not value:
            raise InputError(f"must be text that is not empty, got {shown(value)}", field=f"{name}[{i}]")
    return found
