from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from genrank.errors import InputError
from genrank.search.filters import Filters, value_parts


def test_texts_and_numbers_of_other_kinds_are_taken() -> None:
    filters = Filters(category="Women", price_min=Decimal("9.5"), without_ids=["a", "b"])  # type: ignore[arg-type]
    assert (filters.category, filters.price_min) == (("Women",), 9.5)
    assert filters.without_ids == {"a", "b"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"price_min": "9"}, "price_min: must be a number of 0 or more, in units of the currency, got '9'"),
        ({"price_max": -1}, "price_max: must be a number of 0 or more, in units of the currency, got -1"),
        ({"price_max": float("nan")}, "price_max: must be a number"),
        ({"price_max": True}, "price_max: must be a number"),
        ({"price_min": 9, "price_max": 8}, "price_min: 9.0 is more than the price_max of 8.0; exchange them"),
        ({"currency": ""}, "currency: must be text, got ''; leave it out for any"),
        ({"brand": 3}, "brand: must be text, got 3; leave it out for any"),
        ({"seller_id": b"x"}, "seller_id: must be text"),
        ({"in_stock": "yes"}, "in_stock: must be True, False or None, got 'yes'"),
        ({"category": ("Women", "")}, r"category\[1\]: must be text that is not empty, got ''"),
        ({"category": 3}, "category: must be a list of texts, got 3"),
        ({"attributes": ["colour"]}, "attributes: must be names with values"),
        ({"attributes": {"size": 3}}, "attributes.size: must be text, got 3"),
        ({"without_words": "red"}, "without_words: must be a list of texts, got 'red'"),
        ({"without_ids": [1]}, r"without_ids\[0\]: must be text that is not empty, got 1"),
    ],
)
def test_a_wrong_value_is_named_with_the_fix(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        Filters(**wrong)
    assert caught.value.field.startswith(next(iter(wrong)))


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("gas, electric", ["gas", "electric"]),
        ("1,000 ml", ["1,000 ml"]),
        ("猫、狗", ["猫", "狗"]),
        ("a; b", ["a", "b"]),
        ("", []),
    ],
)
def test_parts_of_a_value(value: str, found: list[str]) -> None:
    assert value_parts(value) == found
