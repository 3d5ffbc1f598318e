"""Calls the caller's own cheap ranker for candidates that the model did not rank, and checks its scores.

Whatever is wrong with it is in the ranking's provenance, and logged as a warning.
"""

from __future__ import annotations

import logging
import math
import numbers
import reprlib
from collections.abc import Callable, Mapping, Sequence

from genrank.types import Request

_log = logging.getLogger(__name__)

Fallback = Callable[[Sequence[Request]], Sequence[Sequence[float]]]
"""A cheap ranker: takes ``[b]`` requests and returns ``[b][n]`` finite scores, one for each candidate in the request's
order; higher is better. It should take milliseconds: with a deadline, one that takes longer than
`genrank.scheduling.fallback_seconds` is abandoned."""


def ask_fallback(fallback: Fallback, requests: Sequence[Request]) -> list[list[float] | str]:
    """The fallback's scores for each request, or what is wrong with them.

    It is the caller's code, so it may raise anything and return anything; no ranking may be lost because of that.
    """
    try:
        answers = list(fallback(requests))
    except Exception as error:
        return failed(requests, f"{type(error).__name__}: {error}", error)
    if len(answers) != len(requests):
        return failed(requests, f"it gave {len(answers)} answers to {len(requests)} requests")
    found = [_read_scores(answer, len(request.candidates)) for answer, request in zip(answers, requests, strict=True)]
    for fault in {one for one in found if isinstance(one, str)}:
        failed((), fault)
    return found


def failed(requests: Sequence[Request], fault: str, error: Exception | None = None) -> list[list[float] | str]:
    """Log a fault, and give it as the answer to each request.

    Args:
        requests: ``[b]``.
        fault: What is wrong, in words.
        error: The same as an exception. A server's log holds only its type, since `fault` may quote a listing.
    """
    _log.warning("the fallback failed: %s", fault, exc_info=error or ValueError(fault))
    return [fault for _ in requests]


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
