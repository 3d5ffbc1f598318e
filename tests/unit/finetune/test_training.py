from __future__ import annotations

import dataclasses
import sys
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("trl", reason="trl is not installed: pip install 'genrank[train]'")

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file
from trl import ModelConfig, SFTConfig

from finetune.arguments import DataArguments
from finetune.training import compile_layers, load_data, load_model, load_start, other_prompts, shortened
from finetune.windows import WindowOptions, draw_windows
from genrank.adapters import Manifest, TrainedPrompt, save_manifest
from genrank.data.dataset import Dataset, sample_shop
from genrank.errors import InputError, ModelError
from genrank.models.weights import weights_fingerprint
from genrank.prompting.template import load_template
from tests.collections_rig import register


def test_another_revision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^model_revision: .*'v2'"):
        load_model(tmp_path, SimpleNamespace(bf16=False), SimpleNamespace(model_revision="v2"))


def test_parts_of_a_model_on_cpus_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as accelerate launch does
    with pytest.raises(InputError, match=r"^distributed_type: FSDP needs GPUs"):
        load_model(tmp_path, SFTConfig(str(tmp_path), use_cpu=True, bf16=False), ModelConfig())


def test_compiled_layers_need_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match=r"^compile_layers: .* no no-such-compiler: install it"):
        compile_layers(SimpleNamespace(device=torch.device("cpu")))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # by torch's own compiler
def test_all_layers_of_the_decoder_are_compiled_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", sys.executable)  # nothing is compiled before the first step
    size: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "vocab_size": 50}
    llama: Any = transformers.LlamaForCausalLM
    model = peft.get_peft_model(llama(transformers.LlamaConfig(num_hidden_layers=3, **size)), peft.LoraConfig())
    compile_layers(model)
    compiled = [type(module).__name__ for module in model.modules() if module._compiled_call_impl is not None]
    assert compiled == ["LlamaDecoderLayer"] * 3


def test_what_cannot_be_measured_again_leaves_the_manifest(capsys: pytest.CaptureFixture[str]) -> None:
    inline = TrainedPrompt(name="inline", hash=load_template("inline").digest)
    listwise = TrainedPrompt(name="listwise", hash=load_template("listwise").digest)
    own = TrainedPrompt(name="mine", hash="00")
    start = Manifest(base_model="m", base_weights="r", prompts={"inline": inline, "listwise": listwise, "other": own})
    assert other_prompts(start, ["listwise"]) == {"inline": inline}
    assert "other, whose prompt mine" in capsys.readouterr().err
    assert other_prompts(None, ["listwise"]) == {}


def test_trains_on_collections(tmp_path: Path) -> None:
    """A BEIR folder has its splits in files, ir_datasets in the ids."""
    pytest.importorskip("ir_datasets")
    train, dev = (f"ir_datasets:{register(tmp_path / split, split)}" for split in ("train", "dev"))
    for data in (DataArguments(datasets=[train], dev=dev), DataArguments(datasets=[str(tmp_path / "train")])):
        [dataset], _, requests = load_data(data, 0)
        assert [request.query.text for request in requests] == ["pine"]
        (window,) = draw_windows(shortened(dataset, data), "train", WindowOptions(least=2, most=3, per_query=1), 0)
        gains = {c.listing.title: gain for c, gain in zip(window.candidates, window.gains, strict=True)}
        assert (gains["Blue lamp"], gains["Red lamp"]) == (1.0, 0.0)


class TestWithGain:
    @staticmethod
    def shop(kept: Collection[str]) -> Dataset:
        """The sample shop, where the first stage found a fit for some queries only."""
        shop = sample_shop()
        run = {
            query: {key: score for key, score in scores.items() if query in kept or not shop.qrels[query].get(key)}
            for query, scores in shop.candidates.items()
        }
        return dataclasses.replace(shop, candidates=run)

    def test_queries_whose_first_stage_found_nothing_are_left_out(self, tmp_path: Path) -> None:
        train, dev = (sample_shop().split(split)[2].query.query_id for split in ("train", "dev"))
        self.shop([train, dev]).save(tmp_path)
        data = DataArguments(datasets=[str(tmp_path)], with_gain=True)
        [dataset], _, requests = load_data(data, 0)
        assert [request.query.query_id for request in requests] == [dev]
        assert [query.query.query_id for query in shortened(dataset, data).split("train")] == [train]
        assert len(load_data(DataArguments(datasets=[str(tmp_path)]), 0)[2]) == 10

    def test_where_none_is_left_it_says_so(self, tmp_path: Path) -> None:
        train = {query.query.query_id for query in sample_shop().split("train")}
        data = DataArguments(datasets=[str(tmp_path)], with_gain=True)
        self.shop(train).save(tmp_path)
        with pytest.raises(InputError, match=r"^with_gain: no dev query of"):
            load_data(data, 0)
        with pytest.raises(InputError, match=r"^with_gain: no train query of"):
            shortened(self.shop([]), data)


class TestStart:
    def test_a_folder_without_an_adapter_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"^adapter: no adapter in .*finetune\.sft"):
            load_start(str(tmp_path), None, "m", tmp_path, {"listwise": load_template("listwise")})

    @pytest.mark.parametrize(
        ("weights", "prompts", "field", "words"),
        [
            ("other", ["listwise"], "adapter", "model_name_or_path"),
            (None, ["inline"], "listwise_prompt", "no listwise prompt"),
            (None, ["listwise"], "listwise_prompt", "old of hash 00"),
        ],
    )
    def test_another_model_or_prompt_is_refused(
        self, weights: str | None, prompts: list[str], field: str, words: str, tmp_path: Path
    ) -> None:

        model = tmp_path / "model"
        model.mkdir()
        save_file({"weight": torch.ones(2)}, model / "model.safetensors")
        (tmp_path / "adapter_config.json").write_text("{}")
        trained = {name: TrainedPrompt(name="old", hash="00") for name in prompts}
        own = weights or weights_fingerprint(model)
        save_manifest(Manifest(base_model="m", base_weights=own, prompts=trained), tmp_path)
        with pytest.raises(InputError) as caught:
            load_start(str(tmp_path), None, str(model), model, {"listwise": load_template("listwise")})
        assert caught.value.field == field
        assert words in str(caught.value)


class TestWeights:
    """A training begins with the weights that are there, and with all of them."""

    @pytest.fixture
    def model(self, tmp_path: Path) -> Path:
        size: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "vocab_size": 50}
        torch.manual_seed(0)
        llama: Any = transformers.LlamaForCausalLM
        llama(transformers.LlamaConfig(num_hidden_layers=2, **size)).save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    def load(self, model: Path) -> Any:
        return load_model(model, SFTConfig(str(model.parent / "out"), use_cpu=True, bf16=False), ModelConfig())

    def test_weights_that_are_missing_are_named(self, model: Path) -> None:
        self.load(model)
        weights = load_file(model / "model.safetensors")
        save_file({name: w for name, w in weights.items() if "layers.1" not in name}, model / "model.safetensors")
        with pytest.raises(ModelError, match=r"missing: 9 \(model.layers.1"):
            self.load(model)

    def test_an_adapter_that_fits_half_is_not_trained_on(self, model: Path, tmp_path: Path) -> None:
        adapter = tmp_path / "adapter"
        lora = peft.LoraConfig(target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        peft.get_peft_model(self.load(model), lora).save_pretrained(str(adapter))
        started, _ = load_start(str(adapter), self.load(model), "m", model, {})
        assert any(weight.requires_grad for weight in started.parameters())
        weights = load_file(adapter / "adapter_model.safetensors")
        half = {name: weight for name, weight in weights.items() if "q_proj" in name}
        save_file(half, adapter / "adapter_model.safetensors")
        with pytest.raises(ModelError, match=r"does not fit m: 8 weights belong to it; missing: 4"):
            load_start(str(adapter), self.load(model), "m", model, {})

    def test_a_model_fetched_again_is_the_same_model(self, model: Path, tmp_path: Path) -> None:
        """The date of the download, a README and the division into files say nothing about the weights."""
        adapter = tmp_path / "adapter"
        lora = peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
        peft.get_peft_model(self.load(model), lora).save_pretrained(str(adapter))
        (model / "genrank-model.json").write_text('{"created": "2026-01-01"}')
        save_manifest(Manifest(base_model="m", base_weights=weights_fingerprint(model), prompts={}), adapter)
        self.load(model).save_pretrained(tmp_path / "again", max_shard_size="10KB")
        (tmp_path / "again" / "genrank-model.json").write_text('{"created": "2027-02-02"}')
        (tmp_path / "again" / "README.md").write_text("new")
        assert not (tmp_path / "again" / "model.safetensors").exists()
        load_start(str(adapter), self.load(model), "m", tmp_path / "again", {})
