from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eval.retune.config import RetuneConfig
from eval.retune.trial import TrialConfig
from genrank.experiment.config import load_config

CONFIGS = Path(__file__).parents[4] / "eval/configs"
CONFIG: dict[str, Any] = {
    "adapters": "adapters",
    "feedback": {"log": "log", "listings": "shop"},
    "train": {"type": "baseline", "config": "c.yaml"},
    "held_out": {"dataset": "shop"},
}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("retune/*.yaml")), ids=lambda path: path.name)
def test_shipped_configs(path: Path) -> None:
    config = load_config(path, RetuneConfig)
    assert path.read_text().startswith(f"# python -m eval.retune --config eval/configs/retune/{path.name}\n")
    assert (CONFIGS.parents[1] / config.train.config).is_file()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("retune-trial/*.yaml")), ids=lambda path: path.name)
def test_shipped_trials(path: Path) -> None:
    config = load_config(path, TrialConfig)
    assert path.read_text().startswith(
        f"# python -m eval.retune.trial --config eval/configs/retune-trial/{path.name}\n"
    )
    assert (CONFIGS.parents[1] / config.ranker).is_file()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"replay": {"original_share": 0.5, "round_share": 0.5}}, "must leave room for new feedback"),
        ({"replay": {"round_share": 1.0}}, "less than 1"),
        ({"gate": {"margin": -0.1}}, "greater than or equal to 0"),
        ({"train": {"type": "bm25"}}, "bm25"),
        ({"feedback": {"log": "log", "listings": "shop", "least_queries": 0}}, "greater than or equal to 1"),
    ],
    ids=["shares", "share", "margin", "train", "queries"],
)
def test_wrong_configurations(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RetuneConfig.model_validate(CONFIG | change)
