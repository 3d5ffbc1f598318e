from pathlib import Path

import pytest

from genrank.data.dataset import Dataset
from genrank.errors import ConfigError
from genrank.experiment.datasets import load_dataset


def test_names(shop: Dataset, tmp_path: Path) -> None:
    shop.save(tmp_path / "shop")
    assert load_dataset("sample-shop").first_stage == "bm25"
    assert load_dataset(str(tmp_path / "shop")).listings == shop.listings
    for name in ("~/no/such/folder", ""):
        with pytest.raises(ConfigError, match="dataset: no folder"):
            load_dataset(name)


def test_candidates_without_a_first_stage_do_not_follow_the_qrels(shop: Dataset, tmp_path: Path) -> None:
    shop.save(tmp_path / "shop")
    many = {seed: load_dataset(str(tmp_path / "shop"), seed) for seed in range(8)}
    assert len({tuple(dataset.candidates["q1"]) for dataset in many.values()}) > 2
    assert {dataset.first_stage for dataset in many.values()} == {"random"}
