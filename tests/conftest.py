"""Fixtures shared by all tests."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent

# The promises are tried 2,000 times each; no deadline, since the machines of CI stall now and then.
settings.register_profile(
    "promises",
    max_examples=2000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.load_profile("promises")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data sets beside the checkout; tests that need them skip where they are absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    return folder


@pytest.fixture(scope="session")
def smollm2() -> str:
    """Name of the small language model, fetched if it is not there yet."""
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed; get it with: pip install 'genrank[transformers]'")
    from genrank.models.store import fetch

    fetch("smollm2-135m")
    return "smollm2-135m"
