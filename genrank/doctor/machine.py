"""The machine: what its processor can compute in, its GPUs, and the environment variables that matter."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from genrank.doctor.check import Check

CPUINFO = Path("/proc/cpuinfo")
NVIDIA = Path("/proc/driver/nvidia/gpus")

_AVX512 = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq"})
_PREFIXES = ("GENRANK_", "HF_", "VLLM_", "CUDA_", "OTEL_", "PYTORCH_", "TRANSFORMERS_")
_NAMES = frozenset(
    {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "OMP_NUM_THREADS", "PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"}
)


def check_cpu(cpuinfo: Path = CPUINFO) -> Check:
    """The cores that this process may use, and the instructions that make a model fast.

    Args:
        cpuinfo: What the kernel says; only Linux has it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    start = f"{platform.machine()}, {cores} core{'' if cores == 1 else 's'}"
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Check("cpu", "ok", f"{start}; genrank doctor --deep asks torch what it can compute in")
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", text, flags=re.MULTILINE)
    flags = set(line.group(1).split()) if line else set()
    has = {
        "AVX-512": flags >= _AVX512,
        "bfloat16": bool(flags & {"avx512_bf16", "amx_bf16", "bf16"}),
        "AMX": "amx_bf16" in flags,
    }
    parts = [name if there else f"no {name}" for name, there in has.items()]
    return Check("cpu", "ok", f"{start}; {', '.join(parts)}")


def gpus(folder: Path = NVIDIA) -> list[str]:
    """Names of the NVIDIA GPUs that the driver shows; empty where there are none, or no Linux."""
    found = []
    for file in sorted(folder.glob("*/information")):
        model = re.search(r"^Model:\s*(.+?)\s*$", file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        found.append(model.group(1) if model else "unknown model")
    return found


def check_gpu(names: Iterable[str], torch: str | None) -> Check:
    """The GPUs, and whether the installed torch was built for them.

    Args:
        names: From `gpus`.
        torch: Version of torch; None if it is not installed.
    """
    shown = ", ".join(names)
    if not shown:
        return Check("gpu", "ok", "none with an NVIDIA driver; models run on the CPU")
    if torch is not None and torch.endswith("+cpu"):
        return Check("gpu", "missing", f"{shown}; torch {torch} cannot use it", "pip install --force-reinstall torch")
    return Check("gpu", "ok", shown)


def check_environment(environment: Mapping[str, str]) -> Check:
    """The environment variables that are set and matter here: their names, never their values."""
    names = [name for name in environment if name.startswith(_PREFIXES) or name.upper() in _NAMES]
    return Check("environment", "ok", ", ".join(sorted(names)) or "nothing set")
