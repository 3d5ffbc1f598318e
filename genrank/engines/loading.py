"""Loads a causal language model and its tokenizer with Hugging Face transformers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from genrank.errors import MissingExtraError, ModelError
from genrank.models.store import resolve

try:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
except ImportError as error:
    raise MissingExtraError(error.name or "transformers", "transformers") from None

_PACKED_FOR = 64  # rows that oneDNN lays weights out for; others run as fast


def load(model: str, adapter: str | None, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """The model, its adapter merged into it, ready to run; and its tokenizer.

    Raises:
        ModelNotFoundError: When there is no such model.
        ModelError: When the model's files cannot be read, or it is no causal language model.
        MissingExtraError: When there is an adapter, and peft is not installed.
    """
    folder = resolve(model)
    with _readable(model):
        config = AutoConfig.from_pretrained(folder)
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if adapter is not None:
            loaded = _with_adapter(loaded, adapter)
    loaded = loaded.to(device).eval()
    if device.type == "cpu" and dtype == torch.bfloat16:
        _pack(loaded)
    return loaded, tokenizer


def native_dtype(device: torch.device) -> torch.dtype:
    """The dtype in which the device computes fastest without losing an order: bfloat16 or float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.bfloat16
    return torch.float32


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """The tokens that end a text, by the model and by its tokenizer."""
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return {end for end in (*ends, tokenizer.eos_token_id) if end is not None}


def _with_adapter(model: Any, adapter: str) -> Any:
    try:
        from peft import PeftModel
    except ImportError:
        raise MissingExtraError("peft", "transformers") from None
    folder = Path(adapter).expanduser()
    if not folder.is_dir() and adapter.count("/") != 1:
        raise ModelError(f"no adapter {adapter!r}: neither a folder nor a hub name such as owner/name")
    return PeftModel.from_pretrained(model, str(folder) if folder.is_dir() else adapter).merge_and_unload()


def _pack(model: Any) -> None:
    """Put packed layers in the place of a model's linear ones, but for the head, which is read in parts."""
    # what torch.compile itself calls, but no public function
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise") or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return
    with torch.no_grad():
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if type(child) is torch.nn.Linear and child is not model.get_output_embeddings():
                    setattr(module, name, _PackedLinear(child))


class _PackedLinear(torch.nn.Module):
    """A linear layer whose weights oneDNN has laid out once, instead of at each call: for bfloat16 on the CPU."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _PACKED_FOR)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], ""))


@contextlib.contextmanager
def _readable(model: str) -> Iterator[None]:
    """Turn what transformers raises over broken files into a `ModelError`."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"cannot load {model}: {error}") from error
