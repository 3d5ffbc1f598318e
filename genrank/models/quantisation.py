"""Checkpoints whose weights are quantised already, by what their config.json says."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrank.errors import ConfigError, ModelError

_MODULES = {"optimum-quanto": "optimum.quanto"}  # by package, where the names differ by more than a hyphen


@dataclass(frozen=True)
class _Method:
    """A way to quantise, as transformers reads it.

    Attributes:
        title: Its usual name.
        packages: What transformers needs for it.
        on_cpu: Whether it runs without a GPU.
    """

    title: str
    packages: tuple[str, ...] = ()
    on_cpu: bool = True


_METHODS = {
    "aqlm": _Method("AQLM", ("aqlm",)),
    "auto-round": _Method("AutoRound", ("auto-round",)),
    "awq": _Method("AWQ", ("gptqmodel",)),
    "bitsandbytes": _Method("bitsandbytes", ("bitsandbytes",)),
    "compressed-tensors": _Method("compressed-tensors", ("compressed-tensors",)),
    "fbgemm_fp8": _Method("FBGEMM FP8", ("fbgemm-gpu",), on_cpu=False),
    "fp8": _Method("FP8"),
    "gptq": _Method("GPTQ", ("gptqmodel", "optimum")),
    "hqq": _Method("HQQ", ("hqq",)),
    "quanto": _Method("Quanto", ("optimum-quanto",)),
    "torchao": _Method("torchao", ("torchao",)),
}


def quantised_by(folder: Path, config: Mapping[str, Any]) -> str:
    """How a checkpoint is quantised, such as ``awq``; empty if it is not.

    Args:
        folder: The model's folder, for messages.
        config: The content of its ``config.json``.

    Raises:
        ModelError: When that does not say it in the usual form.
    """
    found = config.get("quantization_config")
    if found is None:
        return ""
    if not isinstance(found, dict):
        raise ModelError(f"{folder / 'config.json'}: quantization_config must be an object, got {found!r}")
    if found.get("quant_method") is None and (found.get("load_in_4bit") or found.get("load_in_8bit")):
        return "bitsandbytes"  # as early versions wrote it
    method = found.get("quant_method")
    if not isinstance(method, str) or not method:
        raise ModelError(
            f"{folder / 'config.json'}: quantization_config.quant_method must be a name such as awq, got {method!r}; "
            "take the files as they were saved"
        )
    return method


def check_readable(folder: Path, config: Mapping[str, Any], *, gpu: bool) -> None:
    """Check that transformers can read a checkpoint's quantisation on this machine; vLLM brings what it needs.

    Methods that are not known here are left to transformers.

    Args:
        folder: The model's folder, for messages.
        config: The content of its ``config.json``.
        gpu: Whether there is a GPU.

    Raises:
        ConfigError: When a package or a GPU is missing; names it, and the way by vLLM.
        ModelError: As in `quantised_by`.
    """
    method = _METHODS.get(quantised_by(folder, config))
    if method is None:
        return
    if not method.on_cpu and not gpu:
        lacks, fix = "which needs a GPU", "take the model's own checkpoint"
    elif missing := [package for package in method.packages if not _installed(package)]:
        lacks = f"which transformers cannot read without {' and '.join(missing)}"
        fix = f"pip install {' '.join(missing)}"
    else:
        return
    raise ConfigError(
        f"{folder / 'config.json'}: the weights are quantised by {method.title}, {lacks}; {fix}, or let vLLM run the "
        "model: engine='vllm', or genrank vllm and the address of that server as the engine"
    )


def check_not_rounded_again(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse ``dtype="int8"`` for a checkpoint whose weights are quantised already.

    Raises:
        ConfigError: Says why.
        ModelError: As in `quantised_by`.
    """
    if method := quantised_by(folder, config):
        title = _METHODS[method].title if method in _METHODS else method
        raise ConfigError(
            f"dtype: int8 would round weights a second time that are quantised already, by {title} "
            f"({folder / 'config.json'}: quantization_config); leave dtype out, or take the model's own checkpoint"
        )


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(_MODULES.get(package, package.replace("-", "_"))) is not None
    except ModuleNotFoundError:  # of the package around it
        return False
