"""``first-token``: the scores of the candidates' identifiers at the first place of the answer.

One forward pass, nothing generated (FIRST, arXiv 2406.15657).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from genrank.decoding.checks import check_count, check_finite
from genrank.engines.base import Engine, ScoreRequest
from genrank.prompting import AnswerTokens, Prompt
from genrank.types import Tokens


def decode(engine: Engine, prompts: Sequence[Prompt], answer: AnswerTokens) -> list[tuple[list[float], Tokens]]:
    """Score candidates by the softmax over their identifiers; see `genrank.decoding.Decode`."""
    results = engine.score(
        [
            ScoreRequest(p.ids, (len(p.ids) - 1,), answer.identifiers[: len(p.listing_ids)], p.listing_ids)
            for p in prompts
        ]
    )
    check_count(results, prompts)
    scored = []
    for prompt, result in zip(prompts, results, strict=True):
        check_count(result.scores, (0,))
        check_count(result.scores[0], prompt.listing_ids)
        check_finite(result.scores)
        scored.append((_softmax(result.scores[0]), result.tokens))
    return scored


def _softmax(values: Sequence[float]) -> list[float]:
    top = max(values)
    weights = [math.exp(value - top) for value in values]
    total = sum(weights)
    return [weight / total for weight in weights]
