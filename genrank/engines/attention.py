"""Attention for rows that continue kept keys and values, without copying these for each query head.

Where several query heads share one head of keys and values (arXiv 2305.13245), transformers repeats the latter under a
mask. Here, the query heads of a group are queries of one head instead, which gives the same numbers.
"""

from __future__ import annotations

from typing import Any

from genrank.errors import MissingExtraError

try:
    import torch
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
except ImportError as _error:
    raise MissingExtraError(_error.name or "transformers", "transformers") from None

_NAME = "genrank_grouped"


def group_heads(model: Any) -> None:
    """Let a model that runs torch's scaled dot-product attention group its query heads under a mask."""
    if model.config._attn_implementation == "sdpa" and model._can_set_attn_implementation():
        AttentionInterface.register(_NAME, _grouped)
        AttentionMaskInterface.register(_NAME, _grouped_mask)
        model.set_attn_implementation(_NAME)


def _grouped_mask(*places: Any, dtype: torch.dtype, config: Any, **options: Any) -> torch.Tensor | None:
    """``[b, 1, groups * tokens, all tokens]`` what is added under a mask, the same for all layers; see `sdpa_mask`."""
    mask = sdpa_mask(*places, dtype=dtype, config=config, **options)
    if mask is None:
        return None
    added = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -torch.inf)
    shared = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return added.repeat(1, 1, config.num_attention_heads // shared, 1)


def _grouped(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """``[b, tokens, heads, width]`` outputs for ``[b, heads, tokens, width]`` queries; see `sdpa_attention_forward`."""
    batch, heads, tokens, width = query.shape
    groups = heads // key.shape[1]
    rows = groups * tokens
    unusual = options.keys() & {"position_bias", "cache"}
    if attention_mask is None or unusual or attention_mask.shape[1:3] != (1, rows):
        mask = attention_mask if attention_mask is None else attention_mask[:, :, :tokens]
        return sdpa_attention_forward(module, query, key, value, mask, **options)
    output = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(batch, key.shape[1], rows, width),
        key,
        value,
        attn_mask=attention_mask,
        dropout_p=options.get("dropout", 0.0),
        scale=options.get("scaling"),
    )
    return output.view(batch, heads, tokens, -1).transpose(1, 2).contiguous(), None
