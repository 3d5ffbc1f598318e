from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrank.text.words import searchable, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Red T-Shirts, ＸＬ (Größe 42)", ["red", "t", "shirts", "xl", "größe", "42"]),
        ("दादा दादी", ["दादा", "दादी"]),
        ("Kẹo dừa dứa", ["kẹo", "dừa", "dứa"]),
        ("می\u200cخواهم", ["میخواهم"]),
        ("שָׁלוֹם", ["שָׁלוֹם"]),
        ("བོད་ཇ", ["བོད", "ཇ"]),
        ("夏季 red", ["夏", "季", "red"]),
        ("ワンピース", ["ワンピース"]),
        ("원피스 red", ["원피스", "red"]),
        ("เสื้อแดง", ["เสื้", "สื้อ", "อแ", "แด", "ดง"]),
        ("ก", ["ก"]),
        ("🎁👟 ❤\ufe0f", ["🎁", "👟", "❤"]),
        ("👩\u200d👩\u200d👧 👍🏽 1\ufe0f\u20e3 🇺🇸🇩🇪", ["👩👩👧", "👍🏽", "1\u20e3", "🇺🇸", "🇩🇪"]),
        ("C++ C# C .NET net", ["c++", "c#", "c", ".net", "net"]),
        ("C++17, F# (asp.net)", ["c++", "17", "f#", "asp", "net"]),
        ("C＃ c＋＋", ["c#", "c++"]),
        ("S20+ AT&T 3.5mm", ["s20", "at", "t", "3", "5mm"]),
        ("Lego® ★ ™", ["lego", "tm"]),
        ("İSTANBUL Istanbul", ["istanbul", "istanbul"]),
        ("كتـــــاب ـ", ["كتاب"]),
        ("1½ l", ["1", "1", "2", "l"]),
        ("a_b \u0301 \ufe0f !?", ["a", "b"]),
        ("", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected
    assert words(unicodedata.normalize("NFD", text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3.5mm 1/2 in", ["3.5mm", "1/2", "in"]),
        ("10-10-10 für 1,299.00 €", ["10-10-10", "für", "1,299.00"]),
        ("5x7, T-shirt 9. C++", ["5x7", "t", "shirt", "9", "c++"]),
        ("1½ l, 11/2 l, ½", ["1", "1/2", "l", "11/2", "l", "1/2"]),
        ("A+ a- A T-shirt O+ A+B", ["a+", "a-", "a", "t", "shirt", "o+", "a", "b"]),
        ("-5 °C, +5, 5-7, size -1.5", ["-5", "c", "+5", "5-7", "size", "-1.5"]),
        ("\u22125 °C", ["-5", "c"]),
        ("夏3.5季", ["夏", "3.5", "季"]),
    ],
)
def test_whole_numbers(text: str, expected: list[str]) -> None:
    assert words(text, whole=True) == expected


def test_chinese_is_cut_as_the_caller_says() -> None:
    assert words("夏季连衣裙 red", cut_han=lambda run: [run[:2], run[2:]]) == ["夏季", "连衣裙", "red"]


@given(st.text() | st.text("aC+# .5🎁👩ก้าخد\u200c\u200d\ufe0fÉİ夏ワ１"))
def test_every_word_is_in_the_searchable_text(text: str) -> None:
    assert all(word in searchable(text) for whole in (True, False) for word in words(text, whole=whole))
