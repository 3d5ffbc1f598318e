"""How a window becomes an order: one module for each decoding.

Each turns the engine's answer into one score for each candidate, 0 to 1, higher is better:

- ``inline``: the model's probability that the candidate, by itself, fits.
- ``first-token``: the probability that the answer names the candidate first; a window's scores add up to 1.
- ``listwise``: the model writes only an order, so the score reflects the place: ``(n - place) / n``, place 0-based.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from genrank.decoding import first_token, inline, listwise
from genrank.engines.base import EngineCall
from genrank.prompting.renderer import AnswerTokens, Prompt
from genrank.types import Decoding, Tokens

__all__ = ["DECODINGS", "Decode"]


class Decode(Protocol):
    """A decoding: turns prompts into an engine call, and the call's answers into scores. It never calls an engine."""

    def ask(self, prompts: Sequence[Prompt], answer: AnswerTokens, *, keep: bool = False) -> EngineCall:
        """The engine's call for some prompts.

        Args:
            prompts: ``[p]``.
            answer: The tokens of an answer.
            keep: Whether the conversations will continue; see `genrank.engines.base.ScoreRequest`.
        """

    def read(
        self, prompts: Sequence[Prompt], answer: AnswerTokens, results: Any
    ) -> list[tuple[list[float], Tokens] | None]:
        """Turn the call's answers into scores.

        Args:
            prompts: ``[p]``, as passed to `ask`.
            answer: The tokens of an answer.
            results: ``[p]`` the engine's answers; None for a prompt that was stopped.

        Returns:
            ``[p]`` scores of each prompt's candidates, ``[n]`` in the order of the prompt, 0 to 1, with token counts;
            None for a prompt that was stopped.

        Raises:
            OutputError: When the model's answer cannot be used (NaN, not a permutation).
        """


DECODINGS: Mapping[Decoding, Decode] = MappingProxyType(
    {"inline": inline, "first-token": first_token, "listwise": listwise}
)
"""The decodings by name."""
