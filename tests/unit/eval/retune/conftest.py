from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from genrank.data.dataset import Dataset

if TYPE_CHECKING:
    from tests.retuning import Shop

collect_ignore_glob = [] if all(map(find_spec, ("duckdb", "lightgbm", "ranx"))) else ["test_*.py"]


@pytest.fixture
def market(bazaar: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    from tests.retuning import open_shop

    monkeypatch.chdir(tmp_path)
    return open_shop(bazaar, tmp_path)
