"""Cross-encoders whose weights fit are loaded; tests/unit/eval/test_cross_encoder.py trains one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sentence_transformers", reason="get it with: pip install 'genrank[baseline]'")

from safetensors.torch import load_file, save_file

from genrank.errors import ModelError
from genrank.rankers.cross_encoder import load_cross_encoder
from genrank.search.dense import Encoder
from tests.tiny_encoder import WORDS, make_encoder

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


class TestWhatCannotRead:
    """A tokenizer or weights with which a cross-encoder or an encoder would score nonsense."""

    def refused(self, folder: Path) -> str:
        """What both say, in one line."""
        with pytest.raises(ModelError) as caught:
            load_cross_encoder(folder, 16)
        with pytest.raises(ModelError) as other:
            Encoder(str(folder), folder.parent / "cache").encode(["red dress"])
        said = str(caught.value)
        assert "\n" not in said + str(other.value)
        assert said[:40] == str(other.value)[:40]
        return said

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return make_encoder(tmp_path / "model", "BertForSequenceClassification", num_labels=1)

    def test_no_tokenizer(self, folder: Path) -> None:
        for name in ("tokenizer.json", "vocab.txt"):
            (folder / name).unlink(missing_ok=True)
        assert "holds no tokenizer" in self.refused(folder)

    def test_the_tokenizer_of_another_model(self, folder: Path) -> None:
        larger = make_encoder(folder.parent / "larger", words=[*WORDS, "coat"])
        shutil.copy(larger / "tokenizer.json", folder / "tokenizer.json")
        assert "embeddings for 9 tokens; beyond them: 1, such as 'coat' (9)" in self.refused(folder)

    @pytest.mark.parametrize(("factor", "words"), [(float("nan"), "not finite"), (0.0, "all zeros")])
    def test_weights_that_say_nothing(self, folder: Path, factor: float, words: str) -> None:
        weights: dict[str, Any] = load_file(folder / WEIGHTS)
        save_file({name: weight * factor for name, weight in weights.items()}, folder / WEIGHTS, {"format": "pt"})
        assert words in self.refused(folder)
