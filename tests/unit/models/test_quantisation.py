"""Quantised checkpoints are known by their config.json, before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from genrank.errors import ConfigError, ModelError
from genrank.models.quantisation import check_not_rounded_again, check_readable, quantised_by

FOLDER = Path("models/shop")


def config(method: object = "awq", **more: Any) -> dict[str, Any]:
    return {"model_type": "llama", "quantization_config": {"quant_method": method, "bits": 4} | more}


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Modules that are installed; the test fills it."""
    there: set[str] = set()

    def find_spec(name: str) -> object | None:
        if "." in name and name.partition(".")[0] not in there:
            raise ModuleNotFoundError(name)
        return SimpleNamespace() if name in there else None

    monkeypatch.setattr("genrank.models.quantisation.importlib.util.find_spec", find_spec)
    return there


@pytest.mark.parametrize(
    ("values", "method"),
    [
        ({}, ""),
        ({"quantization_config": None}, ""),
        (config("gptq"), "gptq"),
        ({"quantization_config": {"load_in_8bit": True}}, "bitsandbytes"),
        (config("own"), "own"),
    ],
)
def test_the_method_is_what_the_configuration_says(values: dict[str, Any], method: str) -> None:
    assert quantised_by(FOLDER, values) == method


@pytest.mark.parametrize("found", ["awq", [], {"bits": 4}, {"quant_method": 4}, {"quant_method": ""}])
def test_a_configuration_in_another_form_is_told(found: object) -> None:
    with pytest.raises(ModelError, match=r"^models/shop/config\.json: quantization_config"):
        quantised_by(FOLDER, {"quantization_config": found})


@pytest.mark.parametrize(
    ("method", "there", "missing"),
    [
        ("awq", set(), "gptqmodel"),
        ("gptq", set(), "gptqmodel and optimum"),
        ("gptq", {"optimum"}, "gptqmodel"),
        ("bitsandbytes", set(), "bitsandbytes"),
        ("compressed-tensors", set(), "compressed-tensors"),
        ("quanto", set(), "optimum-quanto"),
        ("quanto", {"optimum"}, "optimum-quanto"),
    ],
)
@pytest.mark.parametrize("gpu", [False, True])
def test_a_missing_package_is_named_with_its_command_and_vllm(
    method: str, there: set[str], missing: str, gpu: bool, packages: set[str]
) -> None:
    packages |= there
    with pytest.raises(ConfigError) as caught:
        check_readable(FOLDER, config(method), gpu=gpu)
    text = str(caught.value)
    assert text.startswith("models/shop/config.json: the weights are quantised by ")
    assert f"cannot read without {missing}; pip install {missing.replace(' and ', ' ')}, or let vLLM" in text
    assert "engine='vllm'" in text


def test_what_needs_a_gpu_says_so_where_there_is_none(packages: set[str]) -> None:
    packages.add("fbgemm_gpu")
    with pytest.raises(ConfigError, match=r"FBGEMM FP8, which needs a GPU; .* vLLM"):
        check_readable(FOLDER, config("fbgemm_fp8"), gpu=False)
    check_readable(FOLDER, config("fbgemm_fp8"), gpu=True)


@pytest.mark.parametrize(
    ("values", "there"),
    [
        ({}, set()),
        (config("awq"), {"gptqmodel"}),
        (config("gptq"), {"gptqmodel", "optimum"}),
        (config("compressed-tensors"), {"compressed_tensors"}),
        (config("quanto"), {"optimum", "optimum.quanto"}),
        (config("fp8"), set()),
        (config("own"), set()),  # transformers says what it knows
    ],
)
def test_what_transformers_can_read_passes(values: dict[str, Any], there: set[str], packages: set[str]) -> None:
    packages |= there
    check_readable(FOLDER, values, gpu=False)


@pytest.mark.parametrize(("method", "title"), [("awq", "AWQ"), ("bitsandbytes", "bitsandbytes"), ("own", "own")])
def test_int8_on_top_is_refused_with_the_reason(method: str, title: str) -> None:
    with pytest.raises(ConfigError, match=rf"^dtype: int8 would round weights a second time .* by {title} \(models"):
        check_not_rounded_again(FOLDER, config(method))
    check_not_rounded_again(FOLDER, {"model_type": "llama"})


@pytest.mark.parametrize(("int8", "words"), [(False, "without gptqmodel"), (True, "a second time")])
def test_the_transformers_engine_checks_it_before_it_loads(
    tmp_path: Path, int8: bool, words: str, packages: set[str]
) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
    loading = pytest.importorskip("genrank.engines.loading")
    packages.clear()
    (tmp_path / "config.json").write_text(json.dumps(config("awq")), encoding="utf-8")
    save_file({"model.embed_tokens.weight": np.zeros((2, 2), np.float16)}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=words):
        loading.load(str(tmp_path), None, torch.device("cpu"), torch.float32, int8=int8)
