from pathlib import Path

import pytest

from eval.baseline.config import BaselineConfig
from genrank.errors import ConfigError
from genrank.experiment.config import load_config
from genrank.rankers.features import GROUPS

FOLDER = Path(__file__).resolve().parents[4] / "eval/configs/baseline"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("**/*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations(path: Path) -> None:
    load_config(path, BaselineConfig)
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == f"# python -m eval.baseline train --config eval/configs/baseline/{path.name}"


def test_they_are_found() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} >= {"crowdflower", "homedepot", "games-history", "sample-shop"}


@pytest.mark.parametrize(
    "settings",
    [
        "objective: pairwise",
        "groups: []",
        "groups: [colour]",
        "dev_share: 1",
        "leaves: 1",
        "bags: 0",
        "learning_rate: 0",
        "rows_share: 1.5",
        "treees: 5",
    ],
)
def test_wrong_settings(tmp_path: Path, settings: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"dataset: sample-shop\n{settings}\n")
    with pytest.raises(ConfigError, match=settings.split(":")[0]):
        load_config(path, BaselineConfig)


def test_groups_stand_in_their_order_once() -> None:
    assert BaselineConfig(dataset="-", groups=("price", "semantic", "price")).groups == ("semantic", "price")
    assert BaselineConfig(dataset="-").groups == GROUPS
