"""For the integration tests, made once per session: engines, a small model to train, and its training."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genrank.adapters import load_manifest
from tests.trainings import make_tiny, sft_options

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file comes first, so that one of two processes does not wait for the other at the end."""
    items.sort(key=lambda item: item.path.stem != "test_vllm_engine")


@pytest.fixture(scope="session")
def engine(smollm2: str) -> Any:
    """The transformers engine as users get it, in bfloat16."""
    pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
    from genrank.engines.transformers import TransformersEngine

    return TransformersEngine(smollm2)


@pytest.fixture(scope="session")
def exact_engine(smollm2: str) -> Any:
    """The transformers engine in float32, where batches and caches change a score by rounding only."""
    pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
    from genrank.engines.transformers import TransformersEngine

    return TransformersEngine(smollm2, dtype="float32")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium of this machine."""
    sync_api = pytest.importorskip("playwright.sync_api")
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def tiny(smollm2: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that trains in seconds, in float32."""
    del smollm2  # fetches it
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def trained(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a whole training of `tiny` by `finetune.sft`; tests read it, and copy what they change."""
    from finetune.arguments import parse
    from finetune.sft import train

    out = tmp_path_factory.mktemp("trained")
    manifest = train(*parse(sft_options(tiny, out, "--report_to", "tensorboard"), "sft"))
    assert load_manifest(out / "adapter") == manifest
    return out
