"""What a merge refuses, and what it carries over."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
pytest.importorskip("peft", reason="peft is not installed: pip install 'genrank[transformers]'")

import torch
import transformers
from safetensors.torch import save_file

from finetune.merge import carried, check, main, merge
from genrank.errors import ModelError


def refused(adapter: Path, out: Path, capsys: pytest.CaptureFixture[str], *more: str, status: int = 2) -> str:
    assert main(["--adapter", str(adapter), "--out", str(out), *more]) == status
    return capsys.readouterr().err


def an_adapter(folder: Path, **config: object) -> Path:
    folder.mkdir()
    values = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(values | config))
    save_file({"weight": torch.ones(2)}, folder / "adapter_model.safetensors")
    return folder


def test_only_adapters_in_safetensors_are_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter, out = tmp_path / "adapter", tmp_path / "out"
    assert "--adapter: " in (said := refused(adapter, out, capsys))
    assert "no adapter_config.json" in said
    (an_adapter(adapter) / "adapter_model.safetensors").unlink()
    assert "holds no adapter_model.safetensors" in refused(adapter, out, capsys, status=1)
    (adapter / "adapter_model.bin").write_bytes(b"")
    assert "only as a pickle (adapter_model.bin)" in refused(adapter, out, capsys, status=1)
    prompt = an_adapter(tmp_path / "prompt", peft_type="PROMPT_TUNING")
    assert "peft_type is 'PROMPT_TUNING'; only LORA, ADALORA" in refused(prompt, out, capsys, status=1)
    assert not out.exists()


def test_an_adapter_must_name_its_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--base: " in refused(an_adapter(tmp_path / "adapter"), tmp_path / "out", capsys)


def test_an_old_manifest_does_not_stop_a_merge(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its fingerprint of the base held the date of the download; what can be compared is names and shapes."""
    size: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "vocab_size": 50}
    llama: Any = transformers.LlamaForCausalLM
    llama(transformers.LlamaConfig(num_hidden_layers=1, **size)).save_pretrained(tmp_path / "base")
    adapter = an_adapter(tmp_path / "adapter")
    manifest = {"format": 1, "base_model": "smollm2-135m", "base_revision": "abc", "prompts": {}}
    (adapter / "genrank.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match=r"does not fit|no tokenizer"):  # which comes behind that comparison
        merge(adapter, tmp_path / "out", str(tmp_path / "base"))
    assert "does not say which weights of smollm2-135m it was trained on" in caplog.text


def test_another_model_than_the_manifest_s_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = an_adapter(tmp_path / "adapter")
    manifest = {"format": 2, "base_model": "smollm2-135m", "base_weights": "abc", "prompts": {}}
    (adapter / "genrank.json").write_text(json.dumps(manifest))
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    save_file({"weight": torch.ones(2)}, tmp_path / "base" / "model.safetensors")
    said = refused(adapter, tmp_path / "out", capsys, "--base", str(tmp_path / "base"))
    assert "was trained on smollm2-135m, whose weights have the fingerprint abc" in said
    assert str(tmp_path / "base") in said


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("")
    assert "exists already" in refused(an_adapter(tmp_path / "adapter"), out, capsys)
    assert "exists already" in refused(tmp_path / "adapter", out / "mine", capsys)
    assert [path.name for path in out.iterdir()] == ["mine"]


def test_what_was_fitted_on_the_adapter_s_model_fits_the_merged_one() -> None:
    own = {"temperature": 2.0, "model": "smollm2-135m"}
    other = {"temperature": 3.0, "model": "gemma3-270m"}
    values = {"base_model": "smollm2-135m", "calibration": {"inline": own, "first-token": other}, "note": 1}
    expected = {"inline": {"temperature": 2.0, "model": ""}, "first-token": other}
    assert carried(values, "models/smollm2") == {**values, "calibration": expected}
    values = {"base_model": "smollm2-135m", "blend": {"inline": {"weight": 0.5, "model": "smollm2-135m"}}}
    assert carried(values, "models/smollm2") == {**values, "blend": {"inline": {"weight": 0.5, "model": ""}}}
    assert carried({"note": 1}, "smollm2-135m") == {"note": 1}


def test_scores_that_changed_are_an_error() -> None:
    before = [torch.tensor([[-1.0, -2.0]]), torch.tensor([[-3.0]])]
    after = [torch.tensor([[-1.1, -2.0]]), torch.tensor([[-3.2]])]
    assert check("merging", before, after, 0.25) == pytest.approx(3.2 - 3.0)
    with pytest.raises(ModelError, match=r"^merging changed a log-probability by 0.2, more than 0.1"):
        check("merging", before, after, 0.1)
    with pytest.raises(ModelError):
        check("merging", before, [torch.tensor([[math.nan, -2.0]]), before[1]], 0.25)
    with pytest.raises(ModelError):
        check("merging", before, [before[0], torch.tensor([[math.nan]])], 0.25)
