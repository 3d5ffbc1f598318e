"""The engine and the gateway as processes of their own, and what the gateway takes of memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from eval.server import Server


def stand_in_engine(folder: Path, port: int, log: Path) -> tuple[Server, str]:
    """The engine without a model, and its model's name."""
    from eval.soak.stand_in import save_tokenizer

    model = save_tokenizer(folder)
    command = [sys.executable, "-m", "eval.soak.stand_in", model, "--port", str(port)]
    return Server("engine", command, f"http://127.0.0.1:{port}/health", log), model


def vllm_engine(model: str, port: int, log: Path) -> Server:
    """The server of vLLM, as ``genrank vllm`` starts it; short contexts and no compilation, so that it is soon back."""
    flags = ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", "4096", "--enforce-eager"]
    # on processors that it shares with the gateway, the model must not keep that from answering in time
    command = ["nice", "-n", "5", sys.executable, "-m", "genrank", "vllm", "--model", model, *flags]
    settings = {"VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"), "VLLM_NO_USAGE_STATS": "1"}
    return Server("engine", command, f"http://127.0.0.1:{port}/health", log, settings)


def gateway(config: Mapping[str, Any], folder: Path) -> Server:
    """``genrank serve`` with a configuration, which is written to the folder."""
    file = folder / "gateway.toml"
    file.write_text(tomli_w.dumps(config), encoding="utf-8")
    command = [sys.executable, "-m", "genrank", "serve", "--config", str(file)]
    return Server("gateway", command, f"http://127.0.0.1:{config['server']['port']}/ready", folder / "gateway.log")


def memory_mib(pid: int) -> float | None:
    """What a process has of memory (RSS); None where the system does not say as Linux does."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith("VmRSS:")), None)
    return int(found.split()[1]) / 1024 if found else None


def open_files(pid: int) -> int | None:
    """How many files and connections a process has open; None where the system does not say as Linux does."""
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return None
