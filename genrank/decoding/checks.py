"""Checks of an engine's answer that all decodings share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from genrank.errors import OutputError, shown


def check_count(answers: Sequence[object], asked: Sequence[object]) -> None:
    """Check that there is one answer for each request.

    Raises:
        OutputError: When there is not.
    """
    if isinstance(answers, str) or not hasattr(answers, "__len__") or not hasattr(answers, "__getitem__"):
        raise OutputError(f"the engine gave {type(answers).__name__} where a list was asked for")
    if len(answers) != len(asked):
        raise OutputError(f"the engine gave {len(answers)} answers where {len(asked)} were asked for")


def check_finite(scores: Sequence[Sequence[float]]) -> None:
    """Check that all scores are finite numbers.

    Raises:
        OutputError: When a score is not a finite number.
    """
    for row in scores:
        for score in row:
            try:
                finite = math.isfinite(score)
            except (TypeError, OverflowError):
                finite = False
            if not finite:
                raise OutputError(f"the model gave the score {shown(score)}")
