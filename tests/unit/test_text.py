from __future__ import annotations

import pytest

from genrank.text import clean, number_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("red dress", "red dress"),
        ("  red \t\n dress ", "red dress"),
        ("red\x00dress", "red dress"),
        ("red\x7fdress\x85", "red dress"),
        ("连衣裙\u3000夏季", "连衣裙 夏季"),  # ideographic space
        ("a\u00a0b\u2028c", "a b c"),
        ("re\u200bd\ufeff", "red"),  # zero-width space, byte-order mark
        ("\u202edesrever", "desrever"),  # right-to-left override
        ("half\ud83d", "half"),  # lone surrogate
        ("می\u200cخواهم", "می\u200cخواهم"),  # Persian needs the non-joiner
        ("👩\u200d👧", "👩\u200d👧"),  # this emoji is one by its joiner
        ("", ""),
        ("\u200b\x00\n", ""),
    ],
)
def test_clean(text: str, expected: str) -> None:
    assert clean(text) == expected


def test_clean_changes_nothing_the_second_time() -> None:
    once = clean(" \ufeffa\x00\u200bb\u3000\n c ")
    assert clean(once) == once


@pytest.mark.parametrize(
    ("number", "text"),
    [(129.0, "129"), (12999.99, "12999.99"), (0.5, "0.5"), (0.1 + 0.2, "0.3"), (1234567.0, "1234567")],
)
def test_a_number_keeps_all_of_its_digits(number: float, text: str) -> None:
    assert number_text(number) == text
