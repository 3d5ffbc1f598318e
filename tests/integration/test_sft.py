"""Training with TRL on a model of real architecture and real tokenizer, two layers deep."""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
pytest.importorskip("trl", reason="trl is not installed: pip install 'genrank[train]'")

import torch
from safetensors.torch import load_file

from finetune.arguments import RankingArguments, parse
from finetune.checkpoints import last_checkpoint
from finetune.packing import pack
from finetune.sft import LengthGroups, train
from finetune.training import shortened
from genrank.adapters import Manifest, load_manifest
from genrank.data.dataset import sample_shop
from genrank.errors import InputError
from genrank.prompting.template import load_template
from genrank.reranker import Reranker
from tests.trainings import SFT_STEPS, kill_behind_a_checkpoint, sft_options


def logged(out: Path) -> list[dict[str, float]]:
    """What the last checkpoint has of each step."""
    checkpoint = last_checkpoint(out)
    assert checkpoint is not None
    state = json.loads((Path(checkpoint) / "trainer_state.json").read_text())
    return [entry for entry in state["log_history"] if "loss" in entry]


def losses(out: Path) -> dict[int, float]:
    """By step, of the last checkpoint."""
    return {int(entry["step"]): entry["loss"] for entry in logged(out)}


def test_an_adapter_is_trained_and_served_with_its_manifest(tiny: Path, trained: Path) -> None:
    manifest = load_manifest(trained / "adapter")
    assert manifest is not None
    assert set(manifest.prompts) == {"pointwise", "inline", "first-token", "listwise"}
    assert manifest.prompts["pointwise"].hash == load_template("pointwise-lean").digest
    assert manifest.prompts["inline"].hash == load_template("inline").digest
    assert manifest.metrics["ndcg@10"] == manifest.metrics["ndcg@10_pointwise"]
    assert all(0 < manifest.metrics[f"ndcg@10_{decoding}"] <= 1 for decoding in ("pointwise", "inline", "first-token"))
    files = {"adapter_config.json", "adapter_model.safetensors", "genrank.json"}
    assert {path.name for path in (trained / "adapter").iterdir()} == files
    assert json.loads((trained / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(tiny)
    assert list(trained.rglob("events.out.tfevents.*"))
    reranker = Reranker(str(tiny), adapter=str(trained / "adapter"))
    request = sample_shop().request(sample_shop().queries[0])
    assert reranker.rerank_batch([request])[0].provenance.outcome == "model"
    found = losses(trained)
    assert list(found) == list(range(1, SFT_STEPS + 1))
    assert sum(found[step] for step in range(6, 11)) < sum(found[step] for step in range(1, 6))  # two whole epochs


def test_an_adapter_goes_on_learning(tiny: Path, tmp_path: Path) -> None:
    def weights(adapter: Path) -> Any:
        found = load_file(adapter / "adapter_model.safetensors")
        return torch.cat([value.flatten() for _, value in sorted(found.items())])

    short = ["--max_steps", "2", "--forms", "pointwise", "inline", "--reasons", "0", "--eval_strategy", "no"]
    short += ["--save_strategy", "no", "--load_best_model_at_end", "false", "--lora_dropout", "0"]
    train(*parse(sft_options(tiny, tmp_path / "first", *short), "sft"))
    first = tmp_path / "first" / "adapter"
    more = [*short, "--adapter", str(first), "--learning_rate", "1e-6"]
    manifest = train(*parse(sft_options(tiny, tmp_path / "second", *more), "sft"))
    assert manifest is not None
    assert manifest.data["adapter"]["datasets"] == ["sample-shop"]
    before, after = weights(first), weights(tmp_path / "second" / "adapter")
    assert 0 < (before - after).abs().max() < 1e-4 < before.abs().max()
    with pytest.raises(InputError, match=r"^listwise_prompt: .* no listwise prompt"):
        train(*parse(sft_options(tiny, tmp_path / "third", "--adapter", str(first)), "sft"))


@pytest.mark.slow  # a minute of C++ compiler
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler: apt-get install g++")
def test_compiled_layers_learn_the_same(tiny: Path, tmp_path: Path) -> None:
    given = ["--max_steps", "4", "--lora_dropout", "0", "--save_steps", "4"]
    train(*parse(sft_options(tiny, tmp_path / "plain", *given), "sft"))
    compiled_too = sft_options(tiny, tmp_path / "compiled", *given, "--compile_layers", "true")
    # a process of its own, since torch's compiler warns of what torch itself does
    command = [sys.executable, "-m", "finetune.sft", *compiled_too]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    plain, compiled = losses(tmp_path / "plain"), losses(tmp_path / "compiled")
    assert compiled == {step: pytest.approx(loss, abs=1e-3) for step, loss in plain.items()}
    names = [set(load_file(tmp_path / run / "adapter" / "adapter_model.safetensors")) for run in ("plain", "compiled")]
    assert names[0] == names[1]


def test_two_processes_train_one_adapter_as_one_does(tiny: Path, tmp_path: Path) -> None:
    # eight rows, of which each process takes half
    given = ["--forms", "pointwise", "--share", "1", "--most_windows", "8", "--reasons", "0", "--lora_dropout", "0"]
    given += ["--max_steps", "4", "--report_to", "none", "--use_cpu", "true"]
    train(*parse(sft_options(tiny, tmp_path / "one", *given, "--per_device_train_batch_size", "4"), "sft"))
    out = tmp_path / "two"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, "-m", "finetune.sft", *sft_options(tiny, out, *given)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (said,) = (line for line in done.stdout.splitlines() if line.startswith('{"format"'))  # by one of them
    assert load_manifest(out / "adapter") == Manifest.model_validate_json(said)
    one, two = logged(tmp_path / "one"), logged(out)
    assert [entry["epoch"] for entry in two] == [0.5, 1.0, 1.5, 2.0]
    for name in ("loss", "loss_pointwise", "grad_norm"):
        assert [entry[name] for entry in two] == pytest.approx([entry[name] for entry in one], rel=0.02), name
    reranker = Reranker(str(tiny), adapter=str(out / "adapter"))
    request = sample_shop().request(sample_shop().queries[0])
    assert reranker.rerank_batch([request])[0].provenance.outcome == "model"


def test_a_run_that_was_killed_goes_on_to_the_same_end(tiny: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "finetune.sft", *sft_options(tiny, out)]
    kill_behind_a_checkpoint(command, out, SFT_STEPS)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole, resumed = losses(trained), losses(out)
    assert list(resumed) == list(whole)
    assert resumed[SFT_STEPS] == pytest.approx(whole[SFT_STEPS], abs=1e-3)


def test_only_the_same_training_goes_on_from_checkpoints(tiny: Path, trained: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(trained / "adapter", first / "adapter")
    given = ["--max_steps", "2", "--save_steps", "2", "--eval_steps", "2"]
    on = [*given, "--adapter", str(first / "adapter")]
    manifest = train(*parse(sft_options(tiny, second, *on), "sft"))
    told = ["--report_to", "tensorboard", "--logging_steps", "2"]
    assert train(*parse(sft_options(tiny, second, *on, *told), "sft")) == manifest
    for other, said in (
        ([*on, "--learning_rate", "1e-3"], r"learning_rate was 0\.01 and is 0\.001\. Give another"),
        ([*given], r"adapter was '.*adapter' and is None; .*adapter files was"),
        ([*on, "--seed", "7"], "seed was 42 and is 7; .*rows was"),
    ):
        with pytest.raises(InputError, match="^output_dir: .*second holds the .* of another training: " + said):
            train(*parse(sft_options(tiny, second, *other), "sft"))
    # the same name, other weights
    shutil.copytree(second / "adapter", first / "adapter", dirs_exist_ok=True)
    with pytest.raises(InputError, match=r"another training: adapter files was '\w+' and is '\w+'\. Give"):
        train(*parse(sft_options(tiny, second, *on), "sft"))
    (second / "training.json").unlink()
    with pytest.raises(InputError, match=r"another training: there is no training\.json, which would say which"):
        train(*parse(sft_options(tiny, second, *on), "sft"))


def test_rows_of_like_length_come_together_in_an_order_of_seed_and_epoch() -> None:
    chance = random.Random(0)
    lengths = [chance.randint(50, 1000) for _ in range(999)]
    groups = LengthGroups(lengths, 4, seed=1)
    first = list(groups)
    assert sorted(first) == list(range(len(lengths)))
    assert list(groups) == first
    batches = [[lengths[row] for row in first[i : i + 4]] for i in range(0, len(first), 4)]
    rows = [
        (len(packed), max(sum(batch[i] for i in row) for row in packed)) for batch in batches if (packed := pack(batch))
    ]
    assert sum(lengths) / sum(count * width for count, width in rows) > 0.95
    middle = statistics.mean(max(batch) for batch in batches[:100])
    assert middle == pytest.approx(statistics.mean(max(batch) for batch in batches[100:]), rel=0.2)  # not by length
    groups.set_epoch(1)
    assert list(groups) != first
    assert list(LengthGroups(lengths, 4, seed=2)) != first


def test_languages_a_share_or_a_number_of_windows_choose_queries() -> None:
    shop = sample_shop()

    def kept(**options: Any) -> list[str]:
        return [query.query.query_id for query in shortened(shop, RankingArguments(**options)).split("train")]

    everything = [query.query.query_id for query in shop.split("train")]
    assert kept() == everything
    assert kept(share=0.5) == everything[: round(len(everything) / 2)]
    assert kept(windows_per_query=3, most_windows=10) == everything[:3]
    assert kept(share=0.001) == everything[:1]
    assert kept(languages=["zh"]) == [query_id for query_id in everything if "-zh-" in query_id]
    assert kept(languages=["en"], share=0.5) == [query_id for query_id in everything if "-en-" in query_id][:6]
    with pytest.raises(InputError, match=r"^languages: sample-shop has no train query in other"):
        kept(languages=["other"])
    assert [q for q in shortened(shop, RankingArguments(share=0.1)).queries if q.split != "train"] == [
        q for q in shop.queries if q.split != "train"
    ]


def test_understanding_is_learned_and_served(tiny: Path, tmp_path: Path) -> None:
    from finetune.understanding import METRIC
    from genrank.engines.transformers import TransformersEngine
    from genrank.search.understanding import Understanding, Vocabulary
    from genrank.search.understanding.wording import digest

    more = ("--forms", "understanding", "--reasons", "0", "--max_steps", "8", "--share", "0.3", "--eval_steps", "8")
    manifest = train(*parse(sft_options(tiny, tmp_path, *more, "--save_steps", "8"), "sft"))
    assert manifest is not None
    assert manifest == load_manifest(tmp_path / "adapter")
    assert {key: prompt.hash for key, prompt in manifest.prompts.items()} == {"understanding": digest()}
    assert set(manifest.metrics) == {METRIC}
    assert manifest.serve is None
    steps = losses(tmp_path)
    assert statistics.mean([steps[7], steps[8]]) < steps[1]
    with TransformersEngine(str(tiny), adapter=str(tmp_path / "adapter")) as engine:
        vocabulary = Vocabulary.of(sample_shop().listings.values())
        intent = Understanding(engine, vocabulary).understand("winter coat for women")
    assert intent.source == "model"
    assert intent.categories
