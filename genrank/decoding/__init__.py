"""How a window becomes an order: one module for each decoding.

Each turns the engine's answer into one score a candidate, 0 to 1, higher is better:

- ``inline``: the model's probability that the candidate fits, by itself.
- ``first-token``: the probability that the answer names the candidate first; a window's scores add up to 1.
- ``listwise``: only an order is written, so the score is the place: ``(n - place) / n``, place 0-based.
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
    """A decoding, which never calls an engine itself: prompts in, a call out; its answers in, scores out."""

    def ask(self, prompts: Sequence[Prompt], answer: AnswerTokens, *, keep: bool = False) -> EngineCall:
        """The engine's call for some prompts.

        Args:
            prompts: ``[p]``.
            answer: The tokens in which answers are read.
            keep: Whether the conversations will go on; see `genrank.engines.base.ScoreRequest`.
        """

    def read(
        self, prompts: Sequence[Prompt], answer: AnswerTokens, results: Any
    ) -> list[tuple[list[float], Tokens] | None]:
        """Turn the call's answers into scores.

        Args:
            prompts: ``[p]``, those that were asked.
            answer: The tokens in which answers are read.
            results: ``[p]`` what the engine gave; None for what was stopped.

        Returns:
            ``[p]`` scores of each prompt's candidates, ``[n]`` in the order of the prompt, 0 to 1, with what they
            cost; None for what was stopped.

        Raises:
            OutputError: When the model's answer cannot be used (NaN, no permutation).
        """


DECODINGS: Mapping[Decoding, Decode] = MappingProxyType(
    {"inline": inline, "first-token": first_token, "listwise": listwise}
)
"""The decodings by name."""
