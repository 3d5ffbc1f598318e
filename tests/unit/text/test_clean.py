from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from genrank.text.clean import clean, number_text


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
        ("❤\ufe0f\u200d🔥 1\ufe0f\u20e3 葛\U000e0100", "❤\ufe0f\u200d🔥 1\ufe0f\u20e3 葛\U000e0100"),
        ("क्\u200dष", "क्\u200dष"),
        ("red" + "".join(chr(0xE0000 + ord(c)) for c in "rank me") + "\U000e0001", "red"),  # tag characters
        ("r\ufe00e\ufe0fd\U000e0101\U000e01ef", "red"),  # selectors that carry bytes
        ("❤\ufe0f\ufe01\ufe02", "❤\ufe0f"),
        ("r\u200de\u200cd\u200d", "red"),  # joiners between letters that do not join
        ("a\u3164b\u2800c\uffa0d", "a b c d"),  # blanks that are no white space
        ("\u115f\u1160re\u034fd", "red"),
        ("\u2066red\u2069\u061c", "red"),
        ("e" + "\u0301" * 50 + "t", "e\u0301\u0301t"),
        ("Việt Nam e\u0302\u0301", "Việt Nam e\u0302\u0301"),
        ("", ""),
        ("\u200b\x00\n", ""),
    ],
)
def test_clean(text: str, expected: str) -> None:
    assert clean(text) == expected


ODD = st.text("a1 ❤👩葛ي\u0301\u200c\u200d\u3164\u115f\ufe0f\ufe00\U000e0101\U000e0041\u202e\n", max_size=12)


@given(st.text() | ODD)
@example(" \ufeffa\x00\u200bb\u3000\n c ")
def test_clean_changes_nothing_the_second_time(text: str) -> None:
    once = clean(text)
    assert clean(once) == once
    assert len(once) <= len(text)


@pytest.mark.parametrize(
    ("number", "text"),
    [(129.0, "129"), (12999.99, "12999.99"), (0.5, "0.5"), (0.1 + 0.2, "0.3"), (1234567.0, "1234567")],
)
def test_a_number_keeps_all_of_its_digits(number: float, text: str) -> None:
    assert number_text(number) == text


@pytest.mark.parametrize(
    "text",
    [
        "অবন্‍ হঠাত্‍",  # a joiner that ends a word: old Bengali
        "അവന്‍",
        "١٤٤٥ ه\u200d",
        "می\u200cخواهم",
        "ᠨᠣᠮ\u180b",  # Mongolian forms
        "שָׁלוֹם יְרוּשָׁלִַ\u034fם",
        "مِصْبَاح \u0600١٢",
        "កាហ្វេ\u200bក្តៅ",  # a zero-width space between two words of Khmer
        unicodedata.normalize("NFD", "ᾅδης Việt ọ̀pá kẹo"),
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # England
        "🏳\ufe0f\u200d🌈 👩🏽\u200d🔬 ✌🏽 1\ufe0f\u20e3",
        "က\ufe00",
        "\u115fᅡ ᄀ\u1160",
    ],
)
def test_real_writing_stays_whole(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("red\u200bdress", "reddress"),
        ("កា \u200b red\u200b", "កា red"),
        ("\U0001f3f4\U000e0072\U000e0061\U000e006e\U000e006b\U000e007f", "\U0001f3f4"),  # bytes behind a flag
        ("r\u180be\u034fd", "red"),
        ("❤\u200d", "❤"),
        ("e" + "\u0301" * 4, "e\u0301\u0301"),
    ],
)
def test_what_only_hides_goes(text: str, left: str) -> None:
    assert clean(text) == left


def test_mongolian_vowel_separators_stay() -> None:
    for text in ("ᠨᠠ\u180eᠠ", "ᠠ\u180bᠮᠠ"):
        assert clean(text) == text
    assert clean("a\u180eb") == "ab"


def test_zero_width_spaces_stay_in_javanese() -> None:
    assert clean("ꦧꦱ\u200bꦗꦮ") == "ꦧꦱ\u200bꦗꦮ"
