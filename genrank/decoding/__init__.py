"""How a window becomes an order: one module for each decoding.

Each turns the engine's answer into one score for each candidate, 0 to 1, higher is better:

- ``pointwise`` and ``inline``: the model's probability that the candidate fits, asked about it alone or in a window.
- ``first-token``: the probability that the answer names the candidate first; a window's scores add up to 1.
- ``listwise``: the model writes only an order, so the score reflects the place: ``(n - place) / n``, place 0-based.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from genrank.decoding import first_token, inline, listwise, pointwise
from genrank.decoding.checks import Scored
from genrank.engines.base import EngineCall
from genrank.prompting.renderer import AnswerTokens, Prompt
from genrank.types import Decoding

__all__ = ["DECODINGS", "Decode", "Scored"]


class Decode(Protocol):
    """A decoding: turns prompts into an engine call, and the call's answers into scores. It never calls an engine."""

    def ask(self, prompts: Sequence[Prompt], answer: AnswerTokens) -> EngineCall:
        """The engine's call for some prompts.

        Args:
            prompts: ``[p]``.
            answer: The tokens of an answer.
        """

    def read(self, prompts: Sequence[Prompt], answer: AnswerTokens, results: Any) -> list[Scored | None]:
        """Turn the call's answers into scores.

        Args:
            prompts: ``[p]``, as passed to `ask`.
            answer: The tokens of an answer.
            results: ``[p]`` the engine's answers; None for a prompt that was stopped.

        Returns:
            ``[p]`` the scores of each prompt's candidates; None for a prompt that was stopped.

        Raises:
            OutputError: When the model's answer cannot be used (NaN, not a permutation).
        """


DECODINGS: Mapping[Decoding, Decode] = MappingProxyType(
    {"pointwise": pointwise, "inline": inline, "first-token": first_token, "listwise": listwise}
)
"""The decodings by name."""
