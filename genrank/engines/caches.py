"""Keys and values of prompts, for the transformers engine: written into a buffer, taken from it, joined into another.

The keys and values of a token lie side by side in one row of numbers, for all layers. So those of a prompt are one
block of memory, whatever shapes the layers have, and a batch of prompts that continue different tokens is made by
copying one block for each. A buffer has room for the tokens to come, so nothing is copied again when they are read.

Sliding-window layers keep every token too (the mask hides those outside the window), so a prompt can be cut anywhere.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from genrank.errors import MissingExtraError

try:
    import torch
    from transformers import DynamicCache
    from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer
except ImportError as _error:
    raise MissingExtraError(_error.name or "transformers", "transformers") from None


def cache_keyword(model: Any) -> str:
    """What a model's forward pass calls kept keys and values: ``cache`` where transformers 5.24 has renamed it."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def can_be_cut(config: Any) -> bool:
    """Whether a model's state is only keys and values for each token (a recurrent layer has another state)."""
    layers = DynamicCache(config=config).layers
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a row holds a token's keys and values: the keys of the first layer, its values, the keys of the second ...

    Attributes:
        shapes: ``[2 * layers]`` number of heads and width of a head, of each layer's keys and values in turn.
    """

    shapes: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, cache: DynamicCache) -> Layout:
        """The layout for a model, from a cache that it has filled."""
        layers: list[Any] = cache.layers
        sides = itertools.chain.from_iterable((layer.keys, layer.values) for layer in layers)
        return cls(tuple((side.shape[1], side.shape[3]) for side in sides))

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return sum(heads * width for heads, width in self.shapes)

    @property
    def vectors(self) -> list[int]:
        """Widths of the vectors that a row consists of: one for each head of each layer's keys and values."""
        return [width for heads, width in self.shapes for _ in range(heads)]

    def split(self, rows: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Each layer's keys and values, ``[b, heads, tokens, width]`` views of ``[b, tokens, row]``."""
        sides = []
        start = 0
        for heads, width in self.shapes:
            side = rows[:, :, start : start + heads * width]
            sides.append(side.view(*side.shape[:2], heads, width).transpose(1, 2))
            start += heads * width
        return list(zip(sides[::2], sides[1::2], strict=True))


class Buffer:
    """The keys and values of a batch of prompts, with room for more tokens.

    Rows may begin with different numbers of tokens. They are padded on the left, so that there are no gaps within a
    row, because a sliding window counts positions.

    Args:
        layout: The model's.
        starts: ``[b]`` how many tokens each row begins with; `fill` gives their keys and values.
        more: How many tokens may be added to each.
        memory: A tensor of the dtype and device of the keys and values, which is used if it is large enough.

    Attributes:
        rows: ``[b, tokens, row]`` keys and values, padding and room included.
        pads: ``[b]`` the padding before each row.
        filled: How many tokens there are, padding included.
    """

    def __init__(self, layout: Layout, starts: Sequence[int], more: int, memory: torch.Tensor) -> None:
        self.filled: int = max(starts)
        self.pads: list[int] = [self.filled - start for start in starts]
        shape = (len(starts), self.filled + more, layout.width)
        size = math.prod(shape)
        self.rows: torch.Tensor = (memory[:size] if memory.numel() >= size else memory.new_empty(size)).view(shape)
        for row, pad in enumerate(self.pads):
            self.rows[row, :pad] = 0  # hidden, but 0 times what happens to lie in memory may not be 0
        self._layers = [_Layer(keys, values, self.filled) for keys, values in layout.split(self.rows)]
        self._cache = Cache(layers=list(self._layers))
        self._hidden = torch.tensor(self.pads, device=memory.device)[:, None]

    def inputs(self, count: int) -> dict[str, Any]:
        """What the model needs besides the next `count` tokens of each row, whose keys and values it then adds.

        ``cache`` has another name in some models; see `cache_keyword`.
        """
        inputs = {"cache": self._cache, "use_cache": True}
        if any(self.pads):
            places = torch.arange(self.filled + count, device=self._hidden.device)
            inputs["attention_mask"] = (places >= self._hidden).long()
            inputs["position_ids"] = places[self.filled :] - self._hidden
        self.filled += count
        return inputs

    def cut(self, lengths: Sequence[int | None]) -> None:
        """Forget tokens at the rows' ends.

        Args:
            lengths: ``[b]`` how many tokens each row keeps, its padding not counted; None for one that is needed no
                longer, and may hold anything from now on. At least one is not None.
        """
        self.filled = max(length for length in lengths if length is not None)
        for row, (pad, length) in enumerate(zip(self.pads, lengths, strict=True)):
            if length is None:
                self.pads[row] = min(pad, self.filled - 1)
            elif (moved := self.filled - length) != pad:
                self.rows[row, moved : self.filled] = self.rows[row, pad : pad + length].clone()
                self.pads[row] = moved
        for layer in self._layers:
            layer.filled = self.filled
        self._hidden = torch.tensor(self.pads, device=self._hidden.device)[:, None]

    def of(self, row: int, start: int, stop: int) -> torch.Tensor:
        """``[tokens, row]`` a row's tokens from `start` to `stop`, 0-based and without the padding, as a view."""
        pad = self.pads[row]
        return self.rows[row, pad + start : pad + stop]


class _Layer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A layer of a `Buffer`: writes new keys and values into its room.

    Args:
        keys: ``[b, heads, tokens, width]``
        values: ``[b, heads, tokens, width]``
        filled: How many tokens there are, padding included.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, filled: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys: torch.Tensor = keys
        self.values: torch.Tensor = values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True
        self.filled = filled

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add tokens; returns the keys and values of all."""
        start, self.filled = self.filled, self.filled + key_states.shape[2]
        keys, values = self.keys[:, :, : self.filled], self.values[:, :, : self.filled]
        keys[:, :, start:] = key_states
        values[:, :, start:] = value_states
        return (keys, values) if start else (key_states, value_states)

    def get_seq_length(self) -> int:
        """How many tokens there are, padding included."""
        return self.filled


class Exact:
    """Keeps rows as they are."""

    name = "auto"

    def encode(self, rows: torch.Tensor) -> torch.Tensor:
        """A copy of ``[tokens, row]`` keys and values, which shares no memory with the original."""
        return rows.clone()

    def decode(self, kept: torch.Tensor, into: torch.Tensor) -> None:
        """Write what `encode` returned into ``[tokens, row]``."""
        into.copy_(kept)


class Int8:
    """Keeps rows as whole numbers of 8 bits, with a float32 scale for the vector of each head.

    Args:
        layout: The model's.
    """

    name = "int8"

    def __init__(self, layout: Layout) -> None:
        self._widths = layout.vectors
        self._width = layout.width
        self._even = self._widths[0] if len(set(self._widths)) == 1 else math.gcd(*self._widths)
        self._scales_at = -(-self._width // 4) * 4  # a float32 begins at a multiple of 4 bytes

    def encode(self, rows: torch.Tensor) -> torch.Tensor:
        """``[tokens, bytes]`` whole numbers, then scales, from ``[tokens, row]``."""
        kept = rows.new_zeros((rows.shape[0], self._scales_at + 4 * len(self._widths)), dtype=torch.int8)
        vectors = torch.split(rows.float(), self._widths, dim=1)
        scales = torch.stack([vector.abs().amax(1) for vector in vectors], 1).clamp_min(1e-12) / 127
        kept[:, self._scales_at :].view(torch.float32).copy_(scales)
        kept[:, : self._width] = (rows.float() / self._spread(scales)).round().to(torch.int8)
        return kept

    def decode(self, kept: torch.Tensor, into: torch.Tensor) -> None:
        """Write what `encode` returned into ``[tokens, row]``."""
        scales = kept[:, self._scales_at :].view(torch.float32).to(into.dtype)
        if self._even == self._widths[0]:
            vectors = (kept.shape[0], len(self._widths), self._even)
            torch.mul(kept[:, : self._width].view(vectors), scales[:, :, None], out=into.view(vectors))
        else:
            torch.mul(kept[:, : self._width], self._spread(scales), out=into)

    def _spread(self, scales: torch.Tensor) -> torch.Tensor:
        """``[tokens, row]``: each vector's scale at all of its numbers."""
        return scales.repeat_interleave(torch.tensor(self._widths, device=scales.device), dim=1)


Packing = Exact | Int8
"""How kept keys and values are stored."""
