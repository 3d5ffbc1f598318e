"""Rewarding a model's own answers with TRL, on a model of real architecture and real tokenizer, two layers deep."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
pytest.importorskip("trl", reason="trl is not installed: pip install 'genrank[train]'")

from finetune.arguments import parse_grpo
from finetune.checkpoints import last_checkpoint
from finetune.grpo import train
from genrank.adapters import load_manifest
from genrank.data.dataset import Dataset, sample_shop
from genrank.errors import InputError
from genrank.prompting.template import load_template
from genrank.reranker import Reranker
from tests.trainings import kill_behind_a_checkpoint

STEPS = 6


@pytest.fixture(scope="module")
def start(trained: Path) -> Path:
    """An adapter of `finetune.sft`."""
    return trained / "adapter"


@pytest.fixture(scope="module")
def whole(tiny: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a training that goes on from `start`."""
    out = tmp_path_factory.mktemp("whole")
    manifest = train(*parse_grpo(options(tiny, out, "--adapter", str(start), "--beta", "0.04"), "grpo"))
    assert load_manifest(out / "adapter") == manifest
    return out


def options(tiny: Path, out: Path, *more: str) -> list[str]:
    given: dict[str, Any] = {
        "model_name_or_path": tiny,
        "output_dir": out,
        "max_steps": STEPS,
        "dev_queries": 2,
        "dev_candidates": 6,
        "share": 0.2,
        "least_candidates": 4,
        "most_candidates": 6,
        "reasons": 0.3,
        "max_completion_length": 24,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "eval_steps": 2,
        "save_steps": 2,
        "logging_steps": 1,
        "bf16": False,
    }
    return [*(text for name, value in given.items() for text in (f"--{name}", str(value))), *more]


def history(out: Path) -> list[dict[str, Any]]:
    """Of the last checkpoint."""
    checkpoint = last_checkpoint(out)
    assert checkpoint is not None
    return list(json.loads((Path(checkpoint) / "trainer_state.json").read_text())["log_history"])


def rewards(out: Path) -> dict[int, float]:
    return {entry["step"]: entry["reward"] for entry in history(out) if "reward" in entry}


def test_an_adapter_goes_on_learning_and_is_served_with_its_manifest(tiny: Path, whole: Path) -> None:
    manifest = load_manifest(whole / "adapter")
    assert manifest is not None
    assert set(manifest.prompts) == {"pointwise", "inline", "first-token", "listwise"}
    assert manifest.prompts["listwise"].hash == load_template("listwise").digest
    measured = ("listwise", "first-token", "inline", "pointwise")
    assert set(manifest.metrics) == {"ndcg@10", *(f"ndcg@10_{decoding}" for decoding in measured)}
    files = {"adapter_config.json", "adapter_model.safetensors", "genrank.json"}
    assert {path.name for path in (whole / "adapter").iterdir()} == files
    request = sample_shop().request(sample_shop().queries[0], 6)
    reranker = Reranker(str(tiny), adapter=str(whole / "adapter"), decoding="listwise", strategy="single")
    assert reranker.rerank_batch([request])[0].provenance.outcome == "model"
    found = history(whole)
    assert [entry["step"] for entry in found if "eval_ndcg@10_listwise" in entry] == [0, 2, 4, 6]
    kl = [entry["kl"] for entry in found if "kl" in entry]
    assert kl[0] == pytest.approx(0, abs=1e-4)  # the reference is the adapter of before, not the bare model
    assert max(kl) > 0
    assert all(0 <= reward <= 1 for reward in rewards(whole).values())


@pytest.mark.slow  # the checkpoints are those of finetune.sft, whose test runs by default
def test_a_run_that_was_killed_goes_on_to_the_same_end(tiny: Path, start: Path, whole: Path, tmp_path: Path) -> None:
    more = ["--adapter", str(start), "--beta", "0.04"]
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "finetune.grpo", *options(tiny, out, *more)]
    kill_behind_a_checkpoint(command, out, STEPS)
    train(*parse_grpo(options(tiny, out, *more), "grpo"))
    assert rewards(out) == pytest.approx(rewards(whole), abs=1e-3)
    with pytest.raises(InputError, match=r"^output_dir: .* of another training: beta was 0\.04 and is 0\.5\. Give"):
        train(*parse_grpo(options(tiny, out, *more[:-1], "0.5"), "grpo"))


def test_free_text_is_rewarded_for_its_form_without_an_adapter_to_start_from(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    more = ["--masked", "false", "--format_weight", "0.5", "--reasons", "0", "--max_steps", "2"]
    manifest = train(*parse_grpo(options(tiny, out, *more), "grpo"))
    assert manifest is not None
    assert set(manifest.prompts) == {"first-token", "listwise"}
    assert {"rewards/ndcg/mean", "rewards/format/mean"} <= set().union(*history(out))


def test_wrong_settings_are_named_with_their_fix(tiny: Path, tmp_path: Path) -> None:
    for more, field, words in (
        (["--max_completion_length", "10"], "max_completion_length", "must be at least"),
        (["--share", "0.01", "--reasons", "0"], "generation_batch_size", "must be at most 4"),
        (["--max_tokens", "20"], "max_tokens", "got 20"),
        (["--reward_weights", "1"], "reward_weights", "ndcg_weight"),
        (["--adapter", str(tmp_path)], "adapter", "finetune.sft"),
    ):
        with pytest.raises(InputError) as caught:
            train(*parse_grpo(options(tiny, tmp_path / "out", *more), "grpo"))
        assert caught.value.field == field
        assert words in str(caught.value)


def test_a_query_that_is_measured_is_not_learned(tiny: Path, tmp_path: Path) -> None:
    import dataclasses

    shop = sample_shop()
    taken = next(query for query in shop.queries if query.split == "dev")
    leak = dataclasses.replace(taken, query=dataclasses.replace(taken.query, query_id="leak"), split="train")
    qrels = shop.qrels | {"leak": shop.qrels[taken.query.query_id]}
    leaking: Dataset = dataclasses.replace(shop, queries=[*shop.queries, leak], qrels=qrels)
    folder = tmp_path / "leaking"
    leaking.save(folder)
    with pytest.raises(InputError, match="leaks: drop"):
        train(*parse_grpo(options(tiny, tmp_path / "out", "--datasets", str(folder)), "grpo"))
    shutil.rmtree(folder)
