from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from genrank.doctor.check import Check
from genrank.doctor.storage import check_storage
from genrank.models.registry import DEFAULT_MODEL, KNOWN_MODELS
from genrank.models.store import MANIFEST

WEIGHTS = b"weights"


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where models are kept; it is not made yet."""
    monkeypatch.setenv("GENRANK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def store(folder: Path, name: str) -> Path:
    """A model as `fetch` leaves it; returns its weights."""
    model = folder / "models" / name
    model.mkdir(parents=True)
    file = model / "model.safetensors"
    file.write_bytes(WEIGHTS)
    entry = {"size": len(WEIGHTS), "sha256": hashlib.sha256(WEIGHTS).hexdigest()}
    (model / MANIFEST).write_text(json.dumps({"source": "hub", "files": {file.name: entry}}))
    return file


def look(name: str, *, deep: bool = False) -> Check:
    (found,) = [check for check in check_storage(deep=deep) if check.name == name]
    return found


def test_nothing_is_made_by_looking(folder: Path) -> None:
    checks = check_storage()
    assert [check.state for check in checks if check.name in ("home", "disk")] == ["ok", "ok"]
    assert {check.name for check in checks} == {"home", "disk", *(f"model {name}" for name in KNOWN_MODELS)}
    assert "made at the first fetch" in look("home").found
    assert not folder.exists()


def test_a_model_that_is_not_there_is_missing(folder: Path) -> None:
    check = look("model gemma3-270m")
    assert (check.state, check.fix) == ("missing", "genrank models fetch gemma3-270m --accept-license")


def test_a_whole_model(folder: Path) -> None:
    store(folder, DEFAULT_MODEL)
    assert look(f"model {DEFAULT_MODEL}") == Check(f"model {DEFAULT_MODEL}", "ok", "whole, 0 MB")


def test_a_broken_model_fails_with_the_command_that_repairs_it(folder: Path) -> None:
    store(folder, DEFAULT_MODEL).write_bytes(b"short")
    check = look(f"model {DEFAULT_MODEL}")
    assert (check.state, check.fix) == ("failed", f"genrank models fetch {DEFAULT_MODEL}")
    assert "model.safetensors: has 5 bytes, should have 7" in check.found


def test_only_a_deep_look_reads_the_files(folder: Path) -> None:
    store(folder, DEFAULT_MODEL).write_bytes(b"WEIGHTS")
    assert look(f"model {DEFAULT_MODEL}").state == "ok"
    check = look(f"model {DEFAULT_MODEL}", deep=True)
    assert (check.state, check.found) == ("failed", "broken: model.safetensors: SHA-256 differs")


def test_a_home_that_is_a_file_fails(folder: Path) -> None:
    folder.write_text("not a folder")
    check = look("home")
    assert (check.state, check.fix) == ("failed", "export GENRANK_HOME=/path/to/another/folder")


@pytest.mark.parametrize(("fetched", "state"), [(False, "failed"), (True, "missing")])
def test_a_home_that_cannot_be_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fetched: bool, state: str
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    if fetched:
        store(folder, DEFAULT_MODEL)
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    check = look("home")
    assert check.state == state
    assert "cannot be written: Read-only file system" in check.found


def test_the_disk_must_have_room_for_the_default_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    check = look("disk")
    assert check.state == "failed"
    assert check.found.startswith(f"1 MB are free, and fetching {DEFAULT_MODEL} needs ")
    store(folder, DEFAULT_MODEL)
    assert look("disk").state == "ok"
