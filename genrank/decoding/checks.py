"""Checks of an engine's answer that all decodings share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from genrank.errors import OutputError


def check_count(answers: Sequence[object], asked: Sequence[object]) -> None:
    """Check that there is one answer for each request.

    Raises:
        OutputError: When there is not.
    """
    if len(answers) != len(asked):
        raise OutputError(f"the engine gave {len(answers)} answers where {len(asked)} were asked for")


def check_finite(scores: Sequence[Sequence[float]]) -> None:
    """Check that all scores are finite.

    Raises:
        OutputError: When a score is not finite.
    """
    for row in scores:
        for score in row:
            if not math.isfinite(score):
                raise OutputError(f"the model gave the score {score}")
