"""``listwise``: the model writes the whole order as text, ``[B] > [A] > [C]`` (arXiv 2304.09542, RankGPT).

A mask lets no identifier come twice or be left out, so every answer is a permutation.
"""

from __future__ import annotations

from collections.abc import Sequence

from genrank.decoding.checks import check_count
from genrank.engines.base import Engine, PermuteRequest, Stop, never
from genrank.errors import InputError, OutputError
from genrank.permutation import Permutation
from genrank.prompting.renderer import AnswerTokens, Prompt
from genrank.types import Tokens


def decode(
    engine: Engine, prompts: Sequence[Prompt], answer: AnswerTokens, *, keep: bool = False, stop: Stop = never
) -> list[tuple[list[float], Tokens] | None]:
    """Score candidates by their place, ``(n - place) / n``; see `genrank.decoding.Decode`."""
    results = engine.permute(
        [
            PermuteRequest(p.ids, answer.identifiers[: len(p.listing_ids)], answer.between, p.listing_ids, keep)
            for p in prompts
        ],
        stop=stop,
    )
    check_count(results, prompts)
    scored: list[tuple[list[float], Tokens] | None] = []
    for prompt, result in zip(prompts, results, strict=True):
        if result is None:
            scored.append(None)
            continue
        check_count(result.order, prompt.listing_ids)
        try:
            places = Permutation(tuple(result.order)).inverse()
        except InputError as error:
            raise OutputError(f"the engine {engine.name} wrote no permutation: {error}") from None
        n = len(places)
        scored.append(([(n - place) / n for place in places], result.tokens))
    return scored
