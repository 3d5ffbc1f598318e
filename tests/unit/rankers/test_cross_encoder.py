"""Cross-encoders whose weights fit are loaded; tests/unit/eval/test_cross_encoder.py trains one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sentence_transformers", reason="get it with: pip install 'genrank[baseline]'")

from safetensors.torch import load_file, save_file

from genrank.errors import ModelError
from genrank.rankers.cross_encoder import load_cross_encoder
from tests.tiny_encoder import make_encoder

WEIGHTS = "model.safetensors"


def test_a_trained_one_is_loaded_with_its_head(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "model", "BertForSequenceClassification", num_labels=1)
    one, two = (load_cross_encoder(folder, 16).predict([("red", "dress")]) for _ in range(2))
    assert one == two


def test_a_head_that_is_missing_is_drawn_for_training_only(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "model")
    load_cross_encoder(folder, 16, seed=1)
    with pytest.raises(
        ModelError, match=r"do not fit its config.json; missing: 2 \(classifier.bias, classifier.weight"
    ):
        load_cross_encoder(folder, 16)


@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("how", ["prefix", "layer"])
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, how: str, seed: int | None) -> None:
    folder = make_encoder(tmp_path / "model", "BertForSequenceClassification", num_labels=1)
    weights: dict[str, Any] = load_file(folder / WEIGHTS)
    changed = {
        "prefix": {f"x.{name}": weight for name, weight in weights.items()},
        "layer": {name: weight for name, weight in weights.items() if "layer.1." not in name},
    }
    save_file(changed[how], folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(ModelError, match=r"missing: \d+ \("):
        load_cross_encoder(folder, 16, seed)


def test_a_file_that_holds_no_weights_is_named(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "model")
    (folder / WEIGHTS).write_text("<html>")
    with pytest.raises(ModelError, match=r"model\.safetensors is not a safetensors file"):
        load_cross_encoder(folder, 16)
