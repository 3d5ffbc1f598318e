"""What the integration tests share, made once in a session: engines, a small model to train, and its training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from genrank.adapters import load_manifest
from tests.trainings import make_tiny, sft_options

HERE = Path(__file__).parent
SHARED = {"test_sft": "trainings", "test_grpo": "trainings", "test_finetune_bench": "trainings"}
"""Files that share costly fixtures; each other file goes to one process as well, since it loads a model."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tell ``--dist loadgroup`` which tests belong into one process."""
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.xdist_group(SHARED.get(item.path.stem, item.path.stem)))


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
