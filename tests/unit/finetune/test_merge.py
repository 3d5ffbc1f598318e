"""What a merge refuses, and what it carries over."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
pytest.importorskip("peft", reason="peft is not installed: pip install 'genrank[transformers]'")

import torch

from finetune.merge import carried, check, main
from genrank.errors import ModelError


def refused(adapter: Path, out: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert main(["--adapter", str(adapter), "--out", str(out), *more]) == 2
    return capsys.readouterr().err


def an_adapter(folder: Path, **config: object) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"} | config))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return folder


def test_only_adapters_in_safetensors_are_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter, out = tmp_path / "adapter", tmp_path / "out"
    assert "--adapter: " in (said := refused(adapter, out, capsys))
    assert "no adapter_config.json" in said
    (an_adapter(adapter) / "adapter_model.safetensors").unlink()
    assert "holds no adapter_model.safetensors" in refused(adapter, out, capsys)
    (adapter / "adapter_model.bin").write_bytes(b"")
    assert "a pickle, adapter_model.bin" in refused(adapter, out, capsys)
    prompt = an_adapter(tmp_path / "prompt", peft_type="PROMPT_TUNING")
    assert "type PROMPT_TUNING; only LORA, ADALORA are merged" in refused(prompt, out, capsys)
    assert not out.exists()


def test_an_adapter_must_name_its_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--base: " in refused(an_adapter(tmp_path / "adapter"), tmp_path / "out", capsys)


def test_another_model_than_the_manifest_s_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = an_adapter(tmp_path / "adapter")
    manifest = {"base_model": "smollm2-135m", "base_revision": "abc", "prompts": {}}
    (adapter / "genrank.json").write_text(json.dumps(manifest))
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    said = refused(adapter, tmp_path / "out", capsys, "--base", str(tmp_path / "base"))
    assert "base_revision: " in said
    assert "was trained on smollm2-135m whose files have the SHA-256 abc" in said


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("")
    assert "is there already" in refused(an_adapter(tmp_path / "adapter"), out, capsys)
    assert "is there already" in refused(tmp_path / "adapter", out / "mine", capsys)
    assert [path.name for path in out.iterdir()] == ["mine"]


def test_a_calibration_of_the_adapter_s_model_fits_the_merged_one() -> None:
    own = {"temperature": 2.0, "model": "smollm2-135m"}
    other = {"temperature": 3.0, "model": "gemma3-270m"}
    values = {"base_model": "smollm2-135m", "calibration": {"inline": own, "first-token": other}, "note": 1}
    expected = {"inline": {"temperature": 2.0, "model": ""}, "first-token": other}
    assert carried(values, "models/smollm2") == {**values, "calibration": expected}
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
