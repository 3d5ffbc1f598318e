"""Keys and values of prompts, for the transformers engine: taken from one batch, cut, and joined into another.

A cache here holds every token, even in sliding-window layers (the mask hides tokens outside the window), so it can be
cut anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from genrank.errors import MissingExtraError

try:
    import torch
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
except ImportError as error:
    raise MissingExtraError(error.name or "transformers", "transformers") from None

KeysValues = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of some tokens, for each layer, ``[1, heads, tokens, width]`` each."""


def can_be_cut(config: Any) -> bool:
    """Whether a model's state is only keys and values for each token (a recurrent layer has another state)."""
    layers = DynamicCache(config=config).layers
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def repeat(kv: KeysValues, rows: int) -> DynamicCache:
    """A cache of `rows` rows that all continue the same tokens."""
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(kv):
        cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
    return cache


def join(rows: Sequence[KeysValues]) -> DynamicCache:
    """A cache of rows of any length, padded on the left, so that new tokens come right after each row's last one.

    There are no gaps within a row, because a sliding window counts positions.
    """
    cache = DynamicCache()
    width = max(kv[0][0].shape[2] for kv in rows)
    for layer, tensors in enumerate(zip(*rows, strict=True)):
        keys, values = (torch.cat([_left_padded(row, width) for row in side]) for side in zip(*tensors, strict=True))
        cache.update(keys, values, layer)
    return cache


def take(cache: DynamicCache, row: int, tokens: int) -> KeysValues:
    """The keys and values of a row's first tokens, as views, which keep the whole batch in memory."""
    layers: list[Any] = cache.layers
    return [(layer.keys[row : row + 1, :, :tokens], layer.values[row : row + 1, :, :tokens]) for layer in layers]


def crop(kv: KeysValues, tokens: int) -> KeysValues:
    """The keys and values of the first tokens."""
    return [(keys[:, :, :tokens], values[:, :, :tokens]) for keys, values in kv]


def copy(kv: KeysValues) -> KeysValues:
    """A copy of keys and values, which shares no memory with the original."""
    return [(keys.clone(), values.clone()) for keys, values in kv]


def size(kv: KeysValues) -> int:
    """Size in bytes."""
    return sum(keys.nbytes + values.nbytes for keys, values in kv)


def _left_padded(tensor: torch.Tensor, width: int) -> torch.Tensor:
    return torch.nn.functional.pad(tensor, (0, 0, width - tensor.shape[2], 0))
