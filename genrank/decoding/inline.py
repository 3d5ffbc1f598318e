"""``inline``: after each candidate the prompt asks whether it fits, and the model's yes/no log-odds are read there.

It takes one forward pass, generates nothing, and ranks as many candidates as the context holds. Each candidate is
judged in view of the ones before it. jina-reranker-v3 (arXiv 2509.25085) also reads one causal pass at each candidate's
own position, but reads embeddings; here the language model's head answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from genrank.decoding.checks import check_count, check_finite
from genrank.engines.base import EngineCall, ScoreRequest, ScoreResult
from genrank.prompting.renderer import AnswerTokens, Prompt
from genrank.types import Tokens


def ask(prompts: Sequence[Prompt], answer: AnswerTokens, *, keep: bool = False) -> EngineCall:
    """Read the targets after each candidate's question; see `genrank.decoding.Decode`."""
    targets = (*answer.yes, *answer.no)
    return EngineCall("score", [ScoreRequest(p.ids, p.reads, targets, p.listing_ids, keep) for p in prompts])


def read(
    prompts: Sequence[Prompt], answer: AnswerTokens, results: Sequence[ScoreResult | None]
) -> list[tuple[list[float], Tokens] | None]:
    """Score candidates by ``sigmoid(logsumexp(yes) - logsumexp(no))``; see `genrank.decoding.Decode`."""
    check_count(results, prompts)
    targets = (*answer.yes, *answer.no)
    split = len(answer.yes)
    scored: list[tuple[list[float], Tokens] | None] = []
    for prompt, result in zip(prompts, results, strict=True):
        if result is None:
            scored.append(None)
            continue
        check_count(result.scores, prompt.reads)
        for place in result.scores:
            check_count(place, targets)
        check_finite(result.scores)
        odds = [_logsumexp(place[:split]) - _logsumexp(place[split:]) for place in result.scores]
        scored.append(([_sigmoid(x) for x in odds], result.tokens))
    return scored


def _logsumexp(values: Sequence[float]) -> float:
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
