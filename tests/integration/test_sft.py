"""Training with TRL on a model of real architecture and real tokenizer, two layers deep."""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
pytest.importorskip("trl", reason="trl is not installed: pip install 'genrank[train]'")

from finetune.arguments import RankingArguments, parse  # noqa: E402
from finetune.sft import LengthGroups, last_checkpoint, shortened, train  # noqa: E402
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


def test_rows_of_like_length_come_together_in_an_order_of_seed_and_epoch() -> None:
    chance = random.Random(0)
    lengths = [chance.randint(50, 1000) for _ in range(999)]
    groups = LengthGroups(lengths, 4, seed=1)
    first = list(groups)
    assert sorted(first) == list(range(len(lengths)))
    assert list(groups) == first
    batches = [[lengths[row] for row in first[i : i + 4]] for i in range(0, len(first), 4)]
    assert sum(lengths) / sum(len(batch) * max(batch) for batch in batches) > 0.95
    middle = statistics.mean(max(batch) for batch in batches[:100])
    assert middle == pytest.approx(statistics.mean(max(batch) for batch in batches[100:]), rel=0.2)  # not by length
    groups.set_epoch(1)
    assert list(groups) != first
    assert list(LengthGroups(lengths, 4, seed=2)) != first


def test_a_share_or_a_number_of_windows_takes_the_first_queries() -> None:
    shop = sample_shop()

    def kept(**options: Any) -> list[str]:
        return [query.query.query_id for query in shortened(shop, RankingArguments(**options)).split("train")]

    everything = [query.query.query_id for query in shop.split("train")]
    assert kept() == everything
    assert kept(share=0.5) == everything[: round(len(everything) / 2)]
    assert kept(windows_per_query=3, most_windows=10) == everything[:3]
    assert kept(share=0.001) == everything[:1]
    assert [q for q in shortened(shop, RankingArguments(share=0.1)).queries if q.split != "train"] == [
        q for q in shop.queries if q.split != "train"
    ]
