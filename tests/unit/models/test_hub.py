"""Models from the Hugging Face hub and its local cache, without a network."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from genrank.errors import (
    DownloadError,
)
from genrank.models import hub, registry, store
from tests.small_wheels import FILES, WEIGHTS, Log, child_code, fake_cache, know


def test_hub_that_refuses_the_connection_costs_seconds(
    spec: registry.ModelSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("huggingface_hub")
    # a process of its own, since huggingface_hub reads the environment once
    code = child_code(spec) + "print(store.fetch('tiny', progress=Tell()))"
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    began = time.monotonic()
    out = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert time.monotonic() - began < 30
    assert "hub: the Hugging Face hub does not answer" in out
    assert store.verify("tiny") == []


def test_hub_cache_is_copied(spec: registry.ModelSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    know(monkeypatch, replace(spec, hub_sha256=hashlib.sha256(WEIGHTS).hexdigest()))
    fake_cache(monkeypatch, tmp_path / "snapshot")
    folder = store.fetch("tiny")
    assert {path.relative_to(folder).as_posix() for path in store._files(folder)} == set(FILES)
    manifest = json.loads((folder / store.MANIFEST).read_text(encoding="utf-8"))
    assert (manifest["source"], manifest["revision"]) == ("hub genrank-tests/no-such-model", "0" * 40)


def test_hub_weights_with_another_checksum_are_refused(
    spec: registry.ModelSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    know(monkeypatch, replace(spec, hub_sha256=hashlib.sha256(WEIGHTS).hexdigest()))
    fake_cache(monkeypatch, tmp_path / "snapshot", b"something else")
    with pytest.raises(DownloadError, match=r"model\.safetensors: SHA-256 differs"):
        store.fetch("tiny", source="hub")


def test_gated_repository_says_what_to_do() -> None:
    errors = pytest.importorskip("huggingface_hub.errors")
    gated = errors.GatedRepoError.__new__(errors.GatedRepoError)
    with pytest.raises(DownloadError, match=r"accept its terms at https://huggingface\.co/owner/name and log in"):
        hub._raise_hub_error("owner/name", gated)


def test_hub_bars_pass_on_the_bytes_from_the_network() -> None:
    pytest.importorskip("tqdm")
    log = Log()
    log.start("x", None)
    bars = hub._hub_bars(log)
    for desc, unit in (("Downloading bytes", "B"), ("Reconstructing", "B"), ("Fetching 3 files", "it")):
        with bars(desc=desc, unit=unit, total=0, name="some.name") as bar:
            bar.total += 7
            bar.update(7)
    assert log.bytes == [7]
