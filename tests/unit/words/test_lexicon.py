from __future__ import annotations

from genrank.reasons.grounding import normalise
from genrank.words import lexicon


def test_every_aspect_has_its_own_names() -> None:
    keys = [one.key for one in lexicon.ASPECTS]
    names = [one.chinese for one in lexicon.ASPECTS]
    assert len(set(keys)) == len(keys)
    assert len(set(names)) == len(names)
    assert all(one.words for one in lexicon.ASPECTS)


def test_groups_are_known() -> None:
    assert set().union(*(one.groups for one in lexicon.ASPECTS)) == lexicon.GROUPS.keys()


def test_words_are_written_as_texts_are_compared() -> None:
    words = {word.rstrip("+-*") for one in lexicon.ASPECTS for word in one.words}
    words |= {*lexicon.GOOD, *lexicon.BAD, *lexicon.FUNCTION_WORDS, *lexicon.PRODUCT_WORDS, *lexicon.HAN_FILLERS}
    assert [word for word in words if normalise(word) != word or not word] == []


def test_no_word_praises_and_blames() -> None:
    assert not lexicon.GOOD & lexicon.BAD
    assert not (lexicon.GOOD | lexicon.BAD) & lexicon.NEGATORS
    assert not (lexicon.GOOD | lexicon.BAD) & (lexicon.FUNCTION_WORDS | lexicon.PRODUCT_WORDS)
