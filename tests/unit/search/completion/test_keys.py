"""What is typed and what is suggested are compared in one form; Chinese by its sound too."""

from __future__ import annotations

import pytest

pytest.importorskip("pypinyin")

from genrank.search.completion.keys import key, misspelt, sound, sounds, typed_key


def test_keys_ignore_case_width_and_white_space() -> None:
    assert key(" Ｒed \n DRESS ") == "red dress"
    assert typed_key("Red ") == "red "
    assert typed_key("Red\t\t") == "red "
    assert typed_key("Red") == "red"
    assert typed_key("  ") == typed_key("") == typed_key("\ud800") == ""


def test_chinese_has_its_pinyin_and_its_initials() -> None:
    assert sounds("连衣裙 夏季") == ("lianyiqunxiaji", "lyqxj")
    assert sounds("iphone手机壳") == ("iphoneshoujike", "iphonesjk")
    assert sounds("red dress") == sounds("ワンピース") == ()


@pytest.mark.parametrize("typed", ["连衣q", "lian yi q", "lianyiq", "莲衣q"])
def test_half_typed_pinyin_and_other_characters_sound_the_same(typed: str) -> None:
    assert sound(typed) == "lianyiq"


@pytest.mark.parametrize("wrong", ["drss sh", "dreess sh", "drass sh", "derss sh"])
def test_one_slip_is_undone(wrong: str) -> None:
    assert "dress sh" in misspelt(wrong)


def test_first_letters_short_words_and_other_scripts_are_taken_as_they_are() -> None:
    assert not list(misspelt("red 连衣裙 été"))
    assert "dress" not in misspelt("bress")
    assert all(one.startswith("red d") for one in misspelt("red drss"))
