"""The questions' examples keep the rules of the questions."""

from __future__ import annotations

import pytest

from genrank.search.understanding.wording import CHINESE, ENGLISH, Wording
from genrank.text.language import language


@pytest.mark.parametrize(("wording", "spoken"), [(ENGLISH, "en"), (CHINESE, "zh")])
def test_examples_are_answered_from_their_options(wording: Wording, spoken: str) -> None:
    for example in wording.examples:
        assert example.answer in (*example.options, wording.any)
        assert language(example.query) == spoken
    answers = [example.answer for example in wording.examples]
    assert wording.any in answers
    assert len(set(answers)) > 2
    assert wording.category in {example.name for example in wording.examples}
    assert wording.question.format(query="q", name="n", options="o").count("q") >= 1
