from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import pytest

from genrank.experiment import record

ROOT = Path(__file__).resolve().parents[3]


def test_circumstances_are_json_and_say_when() -> None:
    found = json.loads(json.dumps(record.circumstances()))
    assert set(found) == {"started", "commit", "hardware", "versions"}
    assert abs(datetime.now(UTC) - datetime.fromisoformat(found["started"])) < timedelta(minutes=1)


def test_the_commit_is_the_clones() -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    if head.returncode:
        pytest.skip("no clone")
    assert record.commit().removesuffix("-dirty") == head.stdout.strip()


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert record.commit() == ""


def test_hardware_is_told_on_systems_that_count_cores_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert record.hardware().endswith(" cores")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert f"{os.cpu_count()} cores" in record.hardware()


def test_versions_are_those_of_what_is_installed() -> None:
    found = record.versions()
    assert found["python"] == platform.python_version()
    assert found["genrank"] == version("genrank")
    assert "vllm-of-nobody" not in found
