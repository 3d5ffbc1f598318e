import pytest

from eval.baseline.ablation import ablate
from eval.baseline.config import BaselineConfig
from genrank.data.dataset import Dataset
from genrank.search.dense import TextEncoder

pytest.importorskip("lightgbm")
pytest.importorskip("ranx")

CONFIG = BaselineConfig(dataset="-", rounds=30, patience=10, leaves=5, leaf_candidates=5)


def test_each_group_is_left_out_and_tried_alone(bazaar: Dataset, encoder: TextEncoder) -> None:
    config = CONFIG.model_copy(update={"groups": ("lexical", "first_stage", "price")})
    result = ablate(bazaar, config, seeds=2, encoder=encoder)
    assert result["absent"] == ["first_stage"]
    assert [(row["features"], row["groups"]) for row in result["rows"]] == [
        ("all", ["lexical", "price"]),
        ("without lexical", ["price"]),
        ("without price", ["lexical"]),
        ("lexical alone", ["lexical"]),
        ("price alone", ["price"]),
    ]
    rows = {row["features"]: row for row in result["rows"]}
    assert rows["all"]["test"] > rows["without lexical"]["test"] + 0.1
    assert rows["without lexical"]["test"] == rows["price alone"]["test"]
    assert all(row["test_deviation"] >= 0 for row in result["rows"])


def test_one_group(bazaar: Dataset, encoder: TextEncoder) -> None:
    result = ablate(bazaar, CONFIG.model_copy(update={"groups": ("lexical",)}), seeds=1, encoder=encoder)
    assert [row["features"] for row in result["rows"]] == ["all"]
