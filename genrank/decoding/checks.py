"""What every decoding checks of an engine's answer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from genrank.errors import OutputError, shown


def check_count(answers: Sequence[object], asked: Sequence[object]) -> None:
    """Refuse an answer that is too short or too long, or no sequence at all.

    Raises:
        OutputError: When there are not as many answers as were asked for.
    """
    if isinstance(answers, str) or not hasattr(answers, "__len__") or not hasattr(answers, "__getitem__"):
        raise OutputError(f"the engine gave {type(answers).__name__} where a list was asked for")
    if len(answers) != len(asked):
        raise OutputError(f"the engine gave {len(answers)} answers where {len(asked)} were asked for")


def check_finite(scores: Sequence[Sequence[float]]) -> None:
    """Refuse NaN, infinity, and what is no number.

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
