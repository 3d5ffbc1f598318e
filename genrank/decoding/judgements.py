"""Reads the model's yes/no log-odds; ``pointwise`` and ``inline`` share it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from genrank.decoding.checks import Scored, check_count, check_finite
from genrank.engines.base import EngineCall, ScoreRequest, ScoreResult
from genrank.prompting.renderer import AnswerTokens, Prompt


def ask(prompts: Sequence[Prompt], answer: AnswerTokens) -> EngineCall:
    """Read yes and no wherever a prompt asks; see `genrank.decoding.Decode`."""
    targets = (*answer.yes, *answer.no)
    return EngineCall(
        "score",
        [
            ScoreRequest(p.ids, p.reads, targets, p.listing_ids, p.lead, p.head, p.opening, p.picture, p.picture_at)
            for p in prompts
        ],
    )


def read(prompts: Sequence[Prompt], answer: AnswerTokens, results: Sequence[ScoreResult | None]) -> list[Scored | None]:
    """Score candidates by ``sigmoid(logsumexp(yes) - logsumexp(no))``; see `genrank.decoding.Decode`."""
    check_count(results, prompts)
    width, split = len(answer.yes) + len(answer.no), len(answer.yes)
    scored: list[Scored | None] = []
    for prompt, result in zip(prompts, results, strict=True):
        if result is None:
            scored.append(None)
            continue
        check_count(result.scores, prompt.reads)
        for place in result.scores:
            check_count(place, range(width))
        check_finite(result.scores)
        odds = [_logsumexp(place[:split]) - _logsumexp(place[split:]) for place in result.scores]
        scored.append(Scored([sigmoid(x) for x in odds], result.tokens, result.found, result.repairs))
    return scored


def log_odds(score: float) -> float:
    """The log-odds of a score that `read` gave, which round to within -37 to 37."""
    score = min(max(score, 1e-16), 1 - 1e-16)
    return math.log(score) - math.log1p(-score)


def sigmoid(x: float) -> float:
    """The score of some log-odds: the inverse of `log_odds`."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _logsumexp(values: Sequence[float]) -> float:
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))
