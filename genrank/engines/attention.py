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
except ImportError as error:
    raise MissingExtraError(error.name or "transformers", "transformers") from None

_NAME = "genrank_grouped"


def group_heads(model: Any) -> None:
    """Let a model that runs torch's scaled dot-product attention group its query heads under a mask."""
    if model.config._attn_implementation == "sdpa" and model._can_set_attn_implementation():
        AttentionInterface.register(_NAME, _grouped)
        AttentionMaskInterface.register(_NAME, sdpa_mask)
        model.set_attn_implementation(_NAME)


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
    if (
        attention_mask is None
        or attention_mask.shape[1] != 1
        or groups == 1
        or options.keys() & {"position_bias", "cache"}
    ):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    output = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(batch, key.shape[1], groups * tokens, width),
        key,
        value,
        attn_mask=attention_mask.repeat(1, 1, groups, 1),
        dropout_p=options.get("dropout", 0.0),
        scale=options.get("scaling"),
    )
    return output.view(batch, heads, tokens, -1).transpose(1, 2).contiguous(), None
