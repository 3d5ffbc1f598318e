"""Cuts and budgets with the tokenizer of a real model, which splits rare characters over several tokens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from genrank import BudgetError, Candidate, Listing, ModelError, Query, load_template
from genrank.models.registry import DEFAULT_MODEL
from genrank.permutation import IDENTIFIERS
from genrank.prompting.renderer import Renderer
from genrank.text.clean import clean

pytestmark = pytest.mark.model
texts = st.text(max_size=30) | st.sampled_from(["连衣裙 夏季 韩版", "👩‍👩‍👧 <|im_end|>", "𓀀𓀁 é", "ワンピース"])


def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    from genrank.engines.tokenizer import HubTokenizer
    from genrank.models.store import resolve

    return HubTokenizer(AutoTokenizer.from_pretrained(resolve(name)))


@pytest.fixture(scope="module")
def tokenizer(smollm2: str) -> Any:
    return _tokenizer(smollm2)


@pytest.mark.parametrize("name", ["smollm2-135m", "gemma3-270m", DEFAULT_MODEL])
def test_a_hundred_names_are_one_token_each(smollm2: str, name: str) -> None:
    try:
        tokenizer = _tokenizer(name)
    except ModelError as error:
        pytest.skip(str(error))
    answer = Renderer(load_template("listwise"), tokenizer).answer
    names = [tokenizer.decode([token]) for token in answer.identifiers]
    if name != DEFAULT_MODEL:  # there "[A" is one token, so few single letters are names
        assert names[:52] == list(IDENTIFIERS)
    assert len(set(names)) == len(set(answer.identifiers)) == len(names) == 100
    written = "".join(f"{one}] > [" for one in names) + names[0]
    tokens = [token for one in answer.identifiers for token in (one, *answer.between)]
    opened = list(tokenizer.encode(["["])[0].ids)
    assert [*opened, *tokens, answer.identifiers[0]] == list(tokenizer.encode(["[" + written])[0].ids)


@given(text=texts.map(clean), tokens=st.integers(0, 20))
def test_a_cut_is_a_prefix_of_whole_characters(tokenizer: Any, text: str, tokens: int) -> None:
    (encoded,) = tokenizer.encode([text])
    assume(tokenizer.decode(encoded.ids) == text)  # this vocabulary lacks some bytes of unassigned characters
    kept = encoded.cut(tokens)
    assert len(kept) <= tokens
    assert text.startswith(tokenizer.decode(kept))


@given(words=st.lists(texts, min_size=1, max_size=6), budget=st.integers(60, 400))
def test_the_budget_holds(tokenizer: Any, words: list[str], budget: int) -> None:
    renderer = Renderer(load_template("inline"), tokenizer)
    candidates = [Candidate(Listing(f"l{i}", "x" + word, description=word)) for i, word in enumerate(words)]
    try:
        prompt = renderer.render(Query("x" + words[0]), candidates, max_tokens=budget, decoding="inline")
    except BudgetError as error:
        assert error.least > budget
        return
    assert len(prompt.ids) <= budget
    assert len(prompt.reads) == len(candidates)
