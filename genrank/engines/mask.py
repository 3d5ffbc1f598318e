"""Which tokens may come next in a listwise answer: the mask that all engines share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from genrank.errors import InputError

IDENTIFIERS = "genrank_identifiers"
"""An argument of requests to vLLM's server (`genrank.engines.vllm_plugin`): the candidates' tokens, ``[n]``."""

BETWEEN = "genrank_between"
"""Another: the tokens between two identifiers; may be left out."""


@dataclass(frozen=True, slots=True)
class PermutationMask:
    """Allows each identifier exactly once, with `between` between every two of them.

    An answer is ``identifier (between identifier) * (n - 1)``: it begins with an identifier and is complete after the
    last one. The model only chooses between the identifiers that are left; every other token is forced.

    Attributes:
        identifiers: ``[n]`` token ids, distinct, in the candidates' order.
        between: Token ids between two identifiers; may be empty, and may include an identifier's token.

    Raises:
        InputError: When there are no identifiers, or one comes twice; the methods raise it when `written` does not
            follow the mask.
    """

    identifiers: tuple[int, ...]
    between: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.identifiers:
            raise InputError("must hold at least one token", field="identifiers")
        if len(set(self.identifiers)) < len(self.identifiers):
            raise InputError(f"must be distinct, got {list(self.identifiers)}", field="identifiers")

    def allowed(self, written: Sequence[int]) -> tuple[int, ...]:
        """The tokens that may follow `written`, the answer so far; none when it is complete."""
        return self._after(self.order(written), len(written))

    def forced(self, written: Sequence[int]) -> tuple[int, ...]:
        """The tokens that must follow `written`, up to the next choice; empty when there is a choice already."""
        order, run = list(self.order(written)), list[int]()
        while len(after := self._after(order, len(written) + len(run))) == 1:
            if (len(written) + len(run)) % self._stride == 0:
                order.append(self.identifiers.index(after[0]))
            run += after
        return tuple(run)

    def order(self, written: Sequence[int]) -> tuple[int, ...]:
        """The places in `identifiers`, 0-based, of the identifiers written so far."""
        order: list[int] = []
        for at, token in enumerate(written):
            if token not in self._after(order, at):
                raise InputError(f"token {token} at place {at} does not follow the mask", field="written")
            if at % self._stride == 0:
                order.append(self.identifiers.index(token))
        return tuple(order)

    @property
    def _stride(self) -> int:
        """Tokens from one identifier to the next."""
        return 1 + len(self.between)

    def _after(self, order: Sequence[int], length: int) -> tuple[int, ...]:
        """The tokens that may follow `length` tokens, which hold the identifiers at the places `order`."""
        if len(order) == len(self.identifiers):
            return ()
        if step := length % self._stride:
            return self.between[step - 1 : step]
        return tuple(token for place, token in enumerate(self.identifiers) if place not in order)
