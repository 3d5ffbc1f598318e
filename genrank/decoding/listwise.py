"""``listwise``: the model writes the whole order as text, ``[B] > [A] > [C]`` (arXiv 2304.09542, RankGPT).

A mask ensures that each identifier comes exactly once, so every answer is a permutation.
"""

from __future__ import annotations

from collections.abc import Sequence

from genrank.decoding.checks import Scored, check_count
from genrank.engines.base import EngineCall, PermuteRequest, PermuteResult
from genrank.errors import InputError, OutputError
from genrank.permutation import Permutation
from genrank.prompting.renderer import AnswerTokens, Prompt


def ask(prompts: Sequence[Prompt], answer: AnswerTokens) -> EngineCall:
    """Have the identifiers written in order; see `genrank.decoding.Decode`."""
    return EngineCall(
        "permute",
        [
            PermuteRequest(p.ids, answer.identifiers[: len(p.listing_ids)], answer.between, p.listing_ids)
            for p in prompts
        ],
    )


def read(
    prompts: Sequence[Prompt],
    answer: AnswerTokens,  # noqa: ARG001 - every decoding takes the same
    results: Sequence[PermuteResult | None],
) -> list[Scored | None]:
    """Score candidates by their place, ``(n - place) / n``; see `genrank.decoding.Decode`."""
    check_count(results, prompts)
    scored: list[Scored | None] = []
    for prompt, result in zip(prompts, results, strict=True):
        if result is None:
            scored.append(None)
            continue
        if result.repairs and not result.order:
            raise OutputError("; ".join(result.repairs))
        check_count(result.order, prompt.listing_ids)
        try:
            places = Permutation(tuple(result.order)).inverse()
        except InputError as error:
            raise OutputError(f"the engine wrote no permutation: {error}") from None
        n = len(places)
        scored.append(Scored([(n - place) / n for place in places], result.tokens, repairs=result.repairs))
    return scored
