"""How a window becomes an order: one module for each decoding.

Each turns the engine's answer into one score a candidate, 0 to 1, higher is better:

- ``inline``: the model's probability that the candidate fits, by itself.
- ``first-token``: the probability that the answer names the candidate first; a window's scores add up to 1.
- ``listwise``: only an order is written, so the score is the place: ``(n - place) / n``, place 0-based.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from genrank.decoding import first_token, inline, listwise
from genrank.engines.base import Engine, Stop, never
from genrank.prompting.renderer import AnswerTokens, Prompt
from genrank.types import Tokens

__all__ = ["DECODINGS", "Decode"]


class Decode(Protocol):
    """A decoding: prompts in, scores out."""

    def __call__(
        self, engine: Engine, prompts: Sequence[Prompt], answer: AnswerTokens, *, keep: bool = False, stop: Stop = never
    ) -> list[tuple[list[float], Tokens] | None]:
        """Score each prompt's candidates, ``[n]`` in the order of the prompt, 0 to 1, and what it cost.

        Args:
            engine: Runs the model.
            prompts: ``[p]``.
            answer: The tokens in which answers are read.
            keep: Whether the conversations will go on; see `genrank.engines.base.ScoreRequest`.
            stop: Ends the call early.

        Returns:
            ``[p]``; None for a prompt that `stop` left out.

        Raises:
            EngineError: When the engine fails.
            OutputError: When the model's answer cannot be used (NaN, no permutation).
        """


DECODINGS: Mapping[str, Decode] = MappingProxyType(
    {"inline": inline.decode, "first-token": first_token.decode, "listwise": listwise.decode}
)
"""The decodings by name."""
