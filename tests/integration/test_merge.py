"""Adapters merged into a model of real architecture and real tokenizer, two layers deep."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
pytest.importorskip("peft", reason="peft is not installed: pip install 'genrank[transformers]'")

import torch

from finetune.merge import merge
from genrank.adapters import Manifest, TrainedPrompt, load_manifest, save_manifest
from genrank.calibration import Calibration, save_calibration, stored_calibration
from genrank.data.dataset import sample_shop
from genrank.engines.transformers import TransformersEngine
from genrank.errors import ModelError
from genrank.models.weights import weights_fingerprint
from genrank.prompting.template import load_template
from genrank.reranker import Reranker
from genrank.types import Ranking
from tests.trainings import make_tiny

TARGETS = ["q_proj", "v_proj", "down_proj"]


@pytest.fixture(scope="module")
def tiny(smollm2: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bfloat16 model of SmolLM2's architecture with its tokenizer."""
    del smollm2  # fetches it
    return make_tiny(tmp_path_factory.mktemp("tiny"), dtype=torch.bfloat16)


def adapt(tiny: Path, out: Path, kind: str) -> Path:
    """An adapter that changes the scores, with its manifest."""
    from peft import AdaLoraConfig, LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    common: dict[str, Any] = {"target_modules": TARGETS, "task_type": "CAUSAL_LM", "lora_alpha": 16}
    kinds: dict[str, Callable[[], LoraConfig]] = {
        "lora": lambda: LoraConfig(r=8, **common),
        "rslora": lambda: LoraConfig(r=8, use_rslora=True, **common),
        "dora": lambda: LoraConfig(r=8, use_dora=True, **common),
        "adalora": lambda: AdaLoraConfig(init_r=12, target_r=8, tinit=1, tfinal=1, total_step=9, **common),
    }
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32), kinds[kind]())
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name or "lora_E" in name:
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(str(out))
    prompt = TrainedPrompt(name="inline", hash=load_template("inline").digest)
    save_manifest(
        Manifest(base_model=str(tiny), base_weights=weights_fingerprint(tiny), prompts={"inline": prompt}), out
    )
    return out


def ranked(model: Path, adapter: Path | None = None) -> list[Ranking]:
    shop = sample_shop()
    engine = TransformersEngine(str(model), adapter=str(adapter) if adapter else None, dtype="float32")
    return Reranker(engine=engine, decoding="inline").rerank_batch(
        [shop.request(query, 8) for query in shop.queries[:3]]
    )


def log_odds(rankings: list[Ranking]) -> dict[tuple[str, str], float]:
    """Of each candidate, and so of the log-probabilities that are read, by query and listing."""
    return {
        (ranking.query_id, item.listing_id): math.log(item.score / (1 - item.score))
        for ranking in rankings
        for item in ranking.items
    }


def greatest(one: dict[tuple[str, str], float], other: dict[tuple[str, str], float]) -> float:
    """Difference."""
    assert one.keys() == other.keys()
    return max(abs(one[key] - other[key]) for key in one)


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora", "adalora"])
def test_a_merged_model_gives_the_adapter_s_scores(tiny: Path, tmp_path: Path, kind: str) -> None:
    adapter, out = adapt(tiny, tmp_path / "adapter", kind), tmp_path / "merged"
    found = merge(adapter, out)
    assert (found.dtype, found.base) == ("bfloat16", str(tiny))
    assert 0 < found.difference < 0.01
    adapted, merged, plain = log_odds(ranked(tiny, adapter)), log_odds(ranked(out)), log_odds(ranked(tiny))
    assert greatest(merged, adapted) < 1e-2
    assert greatest(merged, adapted) < greatest(plain, adapted) / 3


def test_a_merged_model_is_plain_and_whole(tiny: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    adapter, out = adapt(tiny, tmp_path / "adapter", "lora"), tmp_path / "new" / "merged"
    save_calibration(Calibration("inline", 2.0, model=str(tiny)), adapter)
    merge(adapter, out)
    names = {path.name for path in out.iterdir()}
    assert names >= {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "genrank.json"}
    assert not any("adapter" in name or name.endswith((".bin", ".pt")) for name in names)
    assert [path.name for path in out.parent.iterdir()] == ["merged"]
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    weights = AutoModelForCausalLM.from_pretrained(out)
    assert {name for name, _ in weights.named_parameters()} == {
        name for name, _ in AutoModelForCausalLM.from_pretrained(tiny).named_parameters()
    }
    text = "<|im_start|>user\n2 × red dress 连衣裙<|im_end|>"
    own, base = (AutoTokenizer.from_pretrained(folder) for folder in (out, tiny))
    assert own(text)["input_ids"] == base(text)["input_ids"]
    assert own.chat_template == base.chat_template
    assert load_manifest(out) == load_manifest(adapter)
    calibration = stored_calibration(out, decoding="inline", prompt_hash="", model=str(out))
    assert calibration is not None
    assert calibration.temperature == 2.0


def test_an_adapter_of_another_shape_leaves_nothing_behind(tiny: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    adapter = adapt(tiny, tmp_path / "adapter", "lora")
    weights = {name: torch.cat([weight, weight], 1) for name, weight in load_file(adapter / FILE).items()}
    save_file(weights, adapter / FILE)
    with pytest.raises(ModelError, match="does not fit"):
        merge(adapter, tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


FILE = "adapter_model.safetensors"
