from __future__ import annotations

from genrank.reasons import lexicon
from genrank.reasons.grounding import normalise

LISTS = {
    "colours": lexicon.COLOURS,
    "materials": lexicon.MATERIALS,
    "features": lexicon.FEATURES,
    "praise": lexicon.PRAISE,
}


def test_words_are_written_as_texts_are_compared() -> None:
    words = [word for groups in LISTS.values() for group in groups for word in group]
    words += [*lexicon.BRANDS, *lexicon.NO_CLAIMS, *lexicon.NEGATORS, *lexicon.COMMON, *lexicon.CURRENCIES]
    words += [unit for table in lexicon.UNITS.values() for unit in table]
    assert [word for word in words if normalise(word) != word or not word] == []


def test_no_word_means_two_things() -> None:
    seen: dict[str, str] = {}
    for name, groups in LISTS.items():
        for number, group in enumerate(groups):
            for word in group:
                assert seen.setdefault(word, f"{name} {number}") == f"{name} {number}"
    units = [unit for table in lexicon.UNITS.values() for unit in table]
    assert len(units) == len(set(units))


def test_currencies_are_codes() -> None:
    assert {len(code) for codes in lexicon.CURRENCIES.values() for code in codes} == {3}
