from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest

from genrank.remote.completions import (
    UnservedError,
    cached_tokens,
    choices,
    chosen_scores,
    prompt_scores,
    token_ids,
)


def npy(array: Any, **options: Any) -> str:
    with io.BytesIO() as buffer:
        np.save(buffer, array, **options)
        return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize("answer", [None, [], "x", {}, {"choices": None}, {"choices": [1]}])
def test_an_answer_without_choices(answer: Any) -> None:
    with pytest.raises(UnservedError, match="no choices"):
        choices(answer, 1)


def test_choices_without_an_index_keep_their_order() -> None:
    assert choices({"choices": [{"a": 1}, {"a": 2}]}, 2) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("index", [[], {}, None, "0", 0.0, False])
def test_a_choice_whose_index_is_no_number(index: Any) -> None:
    with pytest.raises(UnservedError, match="1 choices where 1 prompts"):
        choices({"choices": [{"index": index}]}, 1)


def test_a_score_that_no_float_holds_is_none() -> None:
    with pytest.raises(UnservedError, match="no log-probability of token 3"):
        chosen_scores({"logprobs": {"top_logprobs": [{"token_id:3": 10**400}]}}, [3])


def test_minus_infinity_is_as_low_as_vllm_writes_it() -> None:
    choice = {"logprobs": {"top_logprobs": [{"token_id:3": float("-inf"), "token_id:4": -9999.0, "token_id:5": -1}]}}
    assert chosen_scores(choice, [5, 3, 4]) == [-1.0, -9999.0, -9999.0]


@pytest.mark.parametrize("found", [None, "3", [3, "4"], [3, True], [3.0], [-1], [1 << 40]])
def test_tokens_that_are_none(found: Any) -> None:
    with pytest.raises(UnservedError, match="token_ids"):
        token_ids({"token_ids": found})


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        ({"usage": {"prompt_tokens_details": {"cached_tokens": 48}}}, 48),
        ({"usage": {"prompt_tokens_details": {"cached_tokens": "48"}}}, 0),
        ({"usage": {"prompt_tokens_details": None}}, 0),
        ({"usage": None}, 0),
        (None, 0),
    ],
)
def test_cached_tokens(answer: Any, count: int) -> None:
    assert cached_tokens(answer) == count


def test_scores_of_a_prompt() -> None:
    encoded = npy(np.array([[-1.5, -np.inf]], dtype=np.float32))
    assert prompt_scores({"prompt_token_id_logprobs": encoded}, 1, 2) == [[-1.5, -9999.0]]


@pytest.mark.parametrize(
    "encoded",
    [
        None,
        "",
        "not base64!",
        base64.b64encode(b"no npy").decode(),
        npy(np.zeros((2, 2))),
        npy(np.array([[print]], dtype=object), allow_pickle=True),
        npy(np.array([["low", "high"]])),
    ],
    ids=["none", "empty", "not base64", "not npy", "another shape", "a pickle", "words"],
)
def test_scores_of_a_prompt_that_cannot_be_read(encoded: Any) -> None:
    with pytest.raises(UnservedError, match="prompt_token_id_logprobs"):
        prompt_scores({"prompt_token_id_logprobs": encoded}, 1, 2)
