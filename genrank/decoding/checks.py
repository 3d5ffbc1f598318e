"""What all decodings share: what they read from an engine's answer, and checks of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from genrank.errors import OutputError, shown
from genrank.types import Tokens


class Scored(NamedTuple):
    """What a decoding read from the engine's answer to one prompt.

    Attributes:
        scores: ``[n]`` in the order of the prompt, 0 to 1.
        tokens: Token counts.
        found: See `genrank.engines.base.ScoreResult`.
        repairs: What the engine had to guess or change, each in words.
    """

    scores: list[float]
    tokens: Tokens
    found: bool = False
    repairs: Sequence[str] = ()


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
