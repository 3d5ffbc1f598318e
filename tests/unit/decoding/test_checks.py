from __future__ import annotations

import math

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
