"""Training with TRL on a model of real architecture and real tokenizer, two layers deep."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
pytest.importorskip("trl", reason="trl is not installed: pip install 'genrank[train]'")

from finetune.arguments import parse  # noqa: E402
from finetune.sft import last_checkpoint, train  # noqa: E402
from genrank.adapters import load_manifest  # noqa: E402
from genrank.dataset import sample_shop  # noqa: E402
from genrank.models import resolve  # noqa: E402
from genrank.prompting import load_template  # noqa: E402
from genrank.reranker import Reranker  # noqa: E402

STEPS = 12


@pytest.fixture(scope="module")
def tiny(smollm2: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of SmolLM2's architecture with its tokenizer, small enough to train in seconds."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("tiny")
    config = AutoConfig.from_pretrained(resolve(smollm2))
    config.update({"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2})
    config.update({"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16})
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    AutoTokenizer.from_pretrained(resolve(smollm2)).save_pretrained(folder)
    return folder


def options(tiny: Path, out: Path, *more: str) -> list[str]:
    given: dict[str, Any] = {
        "model_name_or_path": tiny,
        "output_dir": out,
        "max_steps": STEPS,
        "dev_queries": 2,
        "share": 0.1,  # three queries: three steps an epoch
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


def losses(out: Path) -> dict[int, float]:
    """By step, of the last checkpoint."""
    checkpoint = last_checkpoint(out)
    assert checkpoint is not None
    state = json.loads((Path(checkpoint) / "trainer_state.json").read_text())
    return {entry["step"]: entry["loss"] for entry in state["log_history"] if "loss" in entry}


def test_an_adapter_is_trained_and_served_with_its_manifest(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = train(*parse(options(tiny, out), "sft"))
    assert set(manifest.prompts) == {"inline", "first-token", "listwise"}
    assert manifest.prompts["inline"].hash == load_template("inline").digest
    assert 0 < manifest.metrics["ndcg@10_inline"] <= 1
    assert load_manifest(out / "adapter") == manifest
    assert {path.suffix for path in (out / "adapter").iterdir()} <= {".safetensors", ".json", ".jinja", ".md"}
    reranker = Reranker(str(tiny), adapter=str(out / "adapter"))
    request = sample_shop().request(sample_shop().queries[0])
    assert reranker.rerank_batch([request])[0].provenance.outcome == "model"
    found = losses(out)
    assert list(found) == list(range(1, STEPS + 1))
    assert sum(list(found.values())[-3:]) < sum(list(found.values())[:3])


def test_a_run_that_was_killed_goes_on_to_the_same_end(tiny: Path, tmp_path: Path) -> None:
    train(*parse(options(tiny, tmp_path / "whole"), "sft"))
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "finetune.sft", *options(tiny, out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    ends = time.monotonic() + 200
    while last_checkpoint(out) is None and process.poll() is None and time.monotonic() < ends:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (out / f"checkpoint-{STEPS}").mkdir(exist_ok=True)  # one that was being written
    assert last_checkpoint(out) is not None
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole, resumed = losses(tmp_path / "whole"), losses(out)
    assert list(resumed) == list(whole)
    assert resumed[STEPS] == pytest.approx(whole[STEPS], abs=1e-3)
