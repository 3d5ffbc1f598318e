"""``first-token``: the scores of the candidates' identifiers at the first place of the answer.

It takes one forward pass and generates nothing (FIRST, arXiv 2406.15657).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from genrank.decoding.checks import Scored, check_count, check_finite
from genrank.engines.base import EngineCall, ScoreRequest, ScoreResult
from genrank.prompting.renderer import AnswerTokens, Prompt


def ask(prompts: Sequence[Prompt], answer: AnswerTokens) -> EngineCall:
    """Read the identifiers at the answer's first place; see `genrank.decoding.Decode`."""
    return EngineCall(
        "score",
        [
            ScoreRequest(p.ids, (len(p.ids) - 1,), answer.identifiers[: len(p.listing_ids)], p.listing_ids)
            for p in prompts
        ],
    )


def read(
    prompts: Sequence[Prompt],
    answer: AnswerTokens,  # noqa: ARG001 - every decoding takes the same
    results: Sequence[ScoreResult | None],
) -> list[Scored | None]:
    """Score candidates by the softmax over their identifiers; see `genrank.decoding.Decode`."""
    check_count(results, prompts)
    scored: list[Scored | None] = []
    for prompt, result in zip(prompts, results, strict=True):
        if result is None:
            scored.append(None)
            continue
        check_count(result.scores, (0,))
        check_count(result.scores[0], prompt.listing_ids)
        check_finite(result.scores)
        scored.append(Scored(_softmax(result.scores[0]), result.tokens, result.found, result.repairs))
    return scored


def _softmax(values: Sequence[float]) -> list[float]:
    top = max(values)
    weights = [math.exp(value - top) for value in values]
    total = sum(weights)
    return [weight / total for weight in weights]
