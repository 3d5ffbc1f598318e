"""Calls the caller's own cheap ranker for candidates that the model did not rank, and checks its scores."""

from __future__ import annotations

import math
import numbers
import reprlib
from collections.abc import Callable, Mapping, Sequence

from genrank.types import Request

Fallback = Callable[[Sequence[Request]], Sequence[Sequence[float]]]
"""A cheap ranker: takes ``[b]`` requests and returns ``[b][n]`` finite scores, one for each candidate in the request's
order; higher is better. No deadline stops it, so it should take milliseconds."""


def ask_fallback(fallback: Fallback, requests: Sequence[Request]) -> list[list[float] | str]:
    """The fallback's scores for each request, or what is wrong with them.

    It is the caller's code, so it may raise anything and return anything; no ranking may be lost because of that.
    """
    try:
        answers = list(fallback(requests))
    except Exception as error:
        return [f"{type(error).__name__}: {error}"] * len(requests)
    if len(answers) != len(requests):
        return [f"it gave {len(answers)} answers to {len(requests)} requests"] * len(requests)
    return [_read_scores(answer, len(request.candidates)) for answer, request in zip(answers, requests, strict=True)]


def _read_scores(answer: Sequence[float], count: int) -> list[float] | str:
    if isinstance(answer, (set, frozenset, Mapping)):
        return f"it gave the scores as a {type(answer).__name__}, not as a list in the candidates' order"
    try:
        scores = list(answer)
        if len(scores) != count:
            return f"it gave {len(scores)} scores for {count} candidates"
        for score in scores:
            if not isinstance(score, numbers.Real) or isinstance(score, bool) or not math.isfinite(score):
                return f"it gave the score {reprlib.repr(score)}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return scores
