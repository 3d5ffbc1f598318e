"""What the tests of trainings share: a model to train, and a training that is killed on its way."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genrank.models.store import resolve


def make_tiny(folder: Path, **options: Any) -> Path:
    """A model of SmolLM2's architecture with its tokenizer, small enough to train in seconds.

    Args:
        folder: Where it is saved.
        options: Of the model's making, such as ``dtype``.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    base = resolve("smollm2-135m")
    config = AutoConfig.from_pretrained(base)
    config.update({"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2})
    config.update({"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16})
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config, **options)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def kill_behind_a_checkpoint(command: Sequence[str], out: Path, steps: int) -> None:
    """Run a training until it has a checkpoint in `out`, and kill it while its last one, as it were, is written."""
    from finetune.checkpoints import last_checkpoint

    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    ends = time.monotonic() + 200
    while last_checkpoint(out) is None and process.poll() is None and time.monotonic() < ends:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (out / f"checkpoint-{steps}").mkdir(exist_ok=True)
    assert last_checkpoint(out) is not None
