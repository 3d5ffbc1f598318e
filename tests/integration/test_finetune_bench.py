"""Timing a training beside a bare loop, on the tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("trl", reason="trl is not installed: pip install 'genrank[train]'")

from finetune.bench import main

ROOT = Path(__file__).resolve().parents[2]


def test_four_ways_train_on_the_same_batches(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--config", str(ROOT / "finetune" / "configs" / "esci-qwen3.yaml"), "--steps", "2", "--rounds", "1"]
    given += ["--datasets", "sample-shop", "--model_name_or_path", str(tiny), "--dev_queries", "1", "--bf16", "false"]
    given += ["--gradient_checkpointing", "false", "--report_to", "none", "--share", "0.3"]
    given += ["--per_device_train_batch_size", "2", "--most_candidates", "5"]
    assert main(given) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["tokens_per_s"]) == {"trainer", "padded", "bare", "untuned"}
    assert all(speed > 0 for speed in found["tokens_per_s"].values())
    assert [len(ratio["all"]) for ratio in found["trainer_to"].values()] == [1, 1, 1]
    assert len(found["batches"]) == 2
