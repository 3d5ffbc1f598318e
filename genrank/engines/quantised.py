"""Linear layers whose weights are 8-bit integers, for a CPU: less to read from memory, and cheaper to multiply.

Weights are rounded once, with a scale for each output; inputs at every call, with a scale for each token, so that what
a prompt scores does not depend on the prompts beside it (the vector-wise scheme of arXiv 2208.07339, without its
outliers). The head and the embeddings stay as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

from genrank.errors import InputError, MissingExtraError

try:
    import torch
except ImportError as _error:
    raise MissingExtraError(_error.name or "torch", "transformers") from None

_TINY = 1e-12

L = TypeVar("L", bound="torch.nn.Module")


def quantise(model: Any) -> None:
    """Replace a model's linear layers, except for the head.

    Args:
        model: A causal language model on the CPU; its weights may be of any floating dtype.

    Raises:
        InputError: When there are none, or this machine's torch has no 8-bit kernels.
    """
    try:
        made = replace_linear(model, Int8Linear)
        if made:
            made[0](torch.zeros(1, made[0].inputs))
    except (RuntimeError, AttributeError) as why:
        said = " ".join(str(why).split())[:100]
        raise InputError(f"int8 needs kernels that torch lacks here ({said}); leave it out", field="dtype") from None
    if not made:
        raise InputError("int8 takes a model with linear layers, and this one has none; leave it out", field="dtype")


def replace_linear(model: Any, make: Callable[[torch.nn.Linear], L]) -> list[L]:
    """Replace a model's linear layers, except for the head, which is read in parts; returns what took their places."""
    head = model.get_output_embeddings()
    made = []
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear and child is not head:
                made.append(make(child))
                setattr(module, name, made[-1])
    return made


class Int8Linear(torch.nn.Module):
    """A linear layer with 8-bit weights; its inputs and outputs have the dtype of the layer it replaces.

    Args:
        linear: The layer.

    Attributes:
        inputs: Numbers that it takes of each token.
    """

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.inputs: int = linear.in_features
        weight = linear.weight.detach().float()
        scales = weight.abs().amax(1).clamp_min(_TINY).double() / 127
        places = torch.zeros(len(scales), dtype=torch.long)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*quantized tensor creation functions")
            rounded = torch.quantize_per_channel(weight, scales, places, 0, torch.qint8)
        self._packed = torch.ops.quantized.linear_prepack(rounded, None)
        self._bias = None if linear.bias is None else linear.bias.detach()
        # without these instructions, sums of two products of whole bytes would overflow
        self._steps = 127 if torch.cpu._is_vnni_supported() else 63

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., inputs]`` to ``[..., outputs]``."""
        wide = x.float()
        size = wide.abs().amax(-1, keepdim=True).clamp_min_(_TINY)
        # the kernel takes one scale for all rows: so every row's largest number becomes 1
        out = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            wide / size, 1 / self._steps, self._steps + 1, self._packed
        ).mul_(size)
        if self._bias is not None:
            out += self._bias
        return cast(torch.Tensor, out.to(x.dtype))
