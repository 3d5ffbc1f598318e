"""LoRA layers that train faster on the CPU: what PEFT computes, with the frozen weights laid out once.

PEFT's own layer has oneDNN lay out each weight again at each call, and takes every input to float32 and back. Here
both frozen weights, as they are read forwards and backwards, are laid out beforehand; only the small LoRA matrices
are float32, and they are rounded to bfloat16 for each product.
"""

from __future__ import annotations

import functools
from typing import Any, cast

import torch
from peft.tuners.lora import Linear

_PACKED_FOR = 1024  # rows that oneDNN lays weights out for; others run as fast


def quicken(model: torch.nn.Module) -> int:
    """Give the plain LoRA layers of a bfloat16 model on the CPU a faster forward and backward pass.

    Layers of another kind (DoRA, AdaLoRA, another dtype or device) stay as they are. State dicts do not change.

    Args:
        model: With PEFT's adapter ``default``.

    Returns:
        How many layers became faster.
    """
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise") or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return 0
    layers = [module for module in model.modules() if type(module) is Linear and _plain(module)]
    forward = cast(Any, torch.compiler).disable(_forward)  # weights that oneDNN laid out are opaque to torch.compile
    for layer in layers:
        base = layer.get_base_layer()
        weight, bias = cast(torch.Tensor, base.weight), cast(torch.Tensor | None, base.bias)
        cast(Any, layer).forward = functools.partial(forward, layer, _packed(weight), _packed(weight.T), bias)
    return len(layers)


def _plain(layer: Any) -> bool:
    base = layer.get_base_layer()
    return (
        type(base) is torch.nn.Linear
        and (base.bias is None or not base.bias.requires_grad)
        and base.weight.dtype == torch.bfloat16
        and base.weight.device.type == "cpu"
        and not base.weight.requires_grad
        and list(layer.lora_A) == ["default"]
        and not layer.lora_variant
        and layer.lora_B["default"].bias is None
    )


def _packed(weight: torch.Tensor) -> torch.Tensor:
    return cast(torch.Tensor, torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _PACKED_FOR))


def _linear(x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return cast(torch.Tensor, torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], ""))


def _forward(
    layer: Any, forwards: torch.Tensor, backwards: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor
) -> torch.Tensor:
    dropout = layer.lora_dropout["default"]
    p = dropout.p if isinstance(dropout, torch.nn.Dropout) and layer.training else 0.0
    mask = (torch.rand_like(x) >= p) / (1 - p) if p else None
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    apply = cast(Any, _LoraLinear.apply)
    return cast(torch.Tensor, apply(x, mask, forwards, backwards, bias, a, b * layer.scaling["default"]))


class _LoraLinear(torch.autograd.Function):
    """``x W' + c + (x * mask) A' B'`` of ``[..., in]``: frozen W and bias c, ``[r, in]`` A and ``[out, r]`` B."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        mask: torch.Tensor | None,
        forwards: torch.Tensor,
        backwards: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if mask is not None:
            mask = mask.reshape(rows.shape).to(x.dtype)
        masked = rows if mask is None else rows * mask
        low_a, low_b = a.to(x.dtype), b.to(x.dtype)
        inner = masked @ low_a.T
        y = _linear(rows, forwards, bias).addmm_(inner, low_b.T)
        ctx.save_for_backward(masked, mask, inner, low_a, low_b)
        ctx.backwards, ctx.shape = backwards, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> Any:
        masked, mask, inner, a, b = ctx.saved_tensors
        dy = dy.reshape(-1, dy.shape[-1])
        outer = dy @ b
        dx = None
        if ctx.needs_input_grad[0]:
            dx = _linear(dy, ctx.backwards)
            dx = dx.addmm_(outer, a) if mask is None else dx.addcmul_(outer @ a, mask)
            dx = dx.view(ctx.shape)
        return dx, None, None, None, None, (outer.T @ masked).float(), (dy.T @ inner).float()
