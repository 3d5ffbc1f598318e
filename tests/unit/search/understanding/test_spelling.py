"""A query's spelling is corrected towards the catalogue, and right words are left alone."""

from __future__ import annotations

import pytest

pytest.importorskip("symspellpy")
pytest.importorskip("pypinyin")

from genrank.search.understanding.spelling import Spelling

WORDS = {
    "winter": 3,
    "coat": 5,
    "keyboard": 2,
    "keyboards": 1,
    "leather": 2,
    "帐篷": 4,
    "窗帘": 3,
    "防水": 9,
    "窗连衣": 0,
}


@pytest.fixture(scope="module")
def spelling() -> Spelling:
    return Spelling(WORDS)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("wintr coat", "winter coat"),
        ("Keybord", "keyboard"),
        ("lether wallet", "leather wallet"),
        ("露营帐蓬 双人", "露营帐篷 双人"),
        ("遮光窗连", "遮光窗帘"),
    ],
)
def test_slips_are_corrected(spelling: Spelling, wrong: str, right: str) -> None:
    assert spelling.correct(wrong) == right


@pytest.mark.parametrize(
    "text", ["winter coat", "boat shoes", "tent is good", "防雨", "新手 送妈妈", "xyzzyqq", "abc 12", "", "🏕"]
)
def test_right_and_unknown_words_are_left_alone(spelling: Spelling, text: str) -> None:
    assert spelling.correct(text) == text
