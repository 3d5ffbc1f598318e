"""For the tests of training: a model to train, the options of a short training, and a training that is killed."""

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
        options: For making the model, such as ``dtype``.
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


SFT_STEPS = 12


def sft_options(model: Path, out: Path, *more: str) -> list[str]:
    """Arguments of `finetune.sft` for a training of seconds, with checkpoints and dropout; of repeated options the last
    one counts."""
    given: dict[str, Any] = {
        "model_name_or_path": model,
        "output_dir": out,
        "max_steps": SFT_STEPS,
        "dev_queries": 2,
        "share": 0.1,  # three queries in three forms, and a reason: five steps an epoch
        "most_candidates": 6,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "lora_dropout": 0.1,
        "reasons": 0.5,
        "eval_steps": 4,
        "save_steps": 4,
        "logging_steps": 1,
        "bf16": False,
    }
    return [*(text for name, value in given.items() for text in (f"--{name}", str(value))), *more]


def kill_behind_a_checkpoint(command: Sequence[str], out: Path, steps: int) -> None:
    """Run a training until `out` holds a checkpoint and kill it, as if in the middle of writing its last checkpoint."""
    from finetune.checkpoints import last_checkpoint

    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    ends = time.monotonic() + 200
    while last_checkpoint(out) is None and process.poll() is None and time.monotonic() < ends:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (out / f"checkpoint-{steps}").mkdir(exist_ok=True)
    assert last_checkpoint(out) is not None
