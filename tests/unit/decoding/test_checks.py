from __future__ import annotations

import math
from typing import Any

import pytest

from genrank.decoding.checks import check_count, check_finite
from genrank.errors import OutputError


def test_check_count() -> None:
    check_count([], [])
    check_count([1, 2], "ab")
    with pytest.raises(OutputError, match="gave 1 answers where 2 were asked for"):
        check_count([1], "ab")
    with pytest.raises(OutputError, match="gave 3 answers where 2 were asked for"):
        check_count([1, 2, 3], "ab")


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_check_finite(score: float) -> None:
    check_finite([[0.0, -1e308], [], [1e308]])
    with pytest.raises(OutputError, match=f"the score {score}"):
        check_finite([[0.0], [1.0, score]])


@pytest.mark.parametrize("answers", [None, 5, "ab", (i for i in "ab"), {"a", "b"}])
def test_answers_that_are_no_list_are_refused(answers: Any) -> None:
    with pytest.raises(OutputError, match=f"gave {type(answers).__name__} where a list was asked for"):
        check_count(answers, "ab")


@pytest.mark.parametrize("score", ["0.5", None, [1.0], 10**400])
def test_scores_that_are_no_numbers_are_refused(score: Any) -> None:
    with pytest.raises(OutputError, match="the model gave the score "):
        check_finite([[0.0, score]])
