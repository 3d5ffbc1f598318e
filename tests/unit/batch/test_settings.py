from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from genrank.adapters import demo_adapter, load_manifest
from genrank.batch.settings import Settings
from genrank.errors import ConfigError, ModelNotFoundError
from genrank.prompting.template import load_template
from genrank.reranker import default_decoding
from tests.kept_rig import save_bytes_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
    return Path(save_bytes_model(tmp_path_factory.mktemp("bytes")))


def test_the_identity_is_of_files_and_not_of_their_names(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENRANK_HOME", str(tmp_path / "home"))
    settings = Settings(model=str(model))
    found = settings.identity()
    assert found["prompt"] == f"pointwise {load_template('pointwise').digest}"
    moved = shutil.copytree(model, tmp_path / "moved")
    assert replace(settings, model=str(moved)).identity() == found
    config = moved / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    changed = replace(settings, model=str(moved)).identity()
    assert {name for name in found if found[name] != changed[name]} == {"model"}
    assert replace(settings, decoding="inline").identity() != found
    calibration = tmp_path / "calibration.json"
    calibration.write_text("{}")
    before = replace(settings, calibration=str(calibration)).identity()["calibration"]
    calibration.write_text("{ }")
    assert replace(settings, calibration=str(calibration)).identity()["calibration"] != before


def test_what_is_missing_is_an_error() -> None:
    with pytest.raises(ModelNotFoundError):
        Settings(model="./nowhere").identity()


def test_what_cannot_be_loaded_is_an_error(model: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the prompt template"):
        Settings(model=str(model), prompt="no-such-file.toml").make()


def test_an_adapter_brings_its_prompt_and_its_own_hash(model: Path, tmp_path: Path) -> None:
    shipped = demo_adapter("qwen2.5-coder-0.5b")
    assert shipped is not None
    settings = Settings(model=str(model), adapter=str(shipped))
    found = settings.identity()
    manifest = load_manifest(shipped)
    assert manifest is not None
    trained = manifest.prompts[default_decoding(str(shipped), None)]
    assert found["prompt"] == f"{trained.name} {load_template(trained.name).digest}"
    copy = shutil.copytree(shipped, tmp_path / "copy")
    assert replace(settings, adapter=str(copy)).identity() == found
    (copy / "notes.txt").write_text("another file")
    assert replace(settings, adapter=str(copy)).identity()["adapter"] != found["adapter"]
