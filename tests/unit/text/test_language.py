from __future__ import annotations

import pytest

from genrank.text.language import language, scripts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("red dress", "en"),
        ("women's jacket", "en"),
        ("连衣裙 Zara", "zh"),
        ("赤いワンピース", "other"),
        ("rotes Kleid", "other"),
        ("robe d'été", "other"),
        ("красное платье", "other"),
        ("501", "other"),
    ],
)
def test_language(text: str, expected: str) -> None:
    assert language(text) == expected


def test_scripts_are_counted_by_words_or_by_characters() -> None:
    assert scripts("连衣裙 red dress платье ドレス") == {"han": 3, "latin": 2, "cyrillic": 1, "kana": 3}
