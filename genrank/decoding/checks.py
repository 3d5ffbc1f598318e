"""What every decoding checks of an engine's answer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from genrank.errors import OutputError


def check_count(answers: Sequence[object], asked: Sequence[object]) -> None:
    """Refuse an answer that is too short or too long.

    Raises:
        OutputError: When there are not as many answers as were asked for.
    """
    if len(answers) != len(asked):
        raise OutputError(f"the engine gave {len(answers)} answers where {len(asked)} were asked for")


def check_finite(scores: Sequence[Sequence[float]]) -> None:
    """Refuse NaN and infinity.

    Raises:
        OutputError: When a score is not finite.
    """
    for row in scores:
        for score in row:
            if not math.isfinite(score):
                raise OutputError(f"the model gave the score {score}")
