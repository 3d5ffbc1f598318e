"""Fixtures shared by all tests."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent

# How often hypothesis tries a promise: 150 times by default, 2,000 times in the nightly `make prove`, 30 times on the
# other Pythons (`make test-light`), by --hypothesis-profile. Tests whose single example takes long pin a number of
# their own. No deadline, since the machines of CI stall now and then; in CI the examples are the same in every run.
for name, examples in (("quick", 30), ("default", 150), ("prove", 2000)):
    settings.register_profile(
        name,
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        derandomize=name != "prove" and "CI" in os.environ,
    )
settings.load_profile("default")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data sets beside the checkout; tests that need them skip if they are missing."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    return folder


@pytest.fixture(scope="session")
def smollm2() -> str:
    """Name of the small language model, fetched if it is not there yet."""
    return _fetched("smollm2-135m")


@pytest.fixture(scope="session")
def default_model() -> str:
    """Name of the model that genrank takes by default, fetched if it is not there yet."""
    from genrank.models.registry import DEFAULT_MODEL

    return _fetched(DEFAULT_MODEL)


def _fetched(model: str) -> str:
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed; get it with: pip install 'genrank[transformers]'")
    from genrank.models.store import fetch

    fetch(model)
    return model
