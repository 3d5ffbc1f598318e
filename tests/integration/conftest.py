"""What the training tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainings import make_tiny


@pytest.fixture(scope="session")
def tiny(smollm2: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that trains in seconds, in float32."""
    del smollm2  # fetches it
    return make_tiny(tmp_path_factory.mktemp("tiny"))
