"""The measurement of query understanding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("symspellpy")
pytest.importorskip("pypinyin")

from eval.intents import compare, examples_of, main, measure, scores, slots_of
from genrank.data.dataset import sample_shop
from genrank.errors import DataFormatError, InputError
from genrank.search.understanding import Understanding, Vocabulary
from genrank.search.understanding.labels import read_labels
from genrank.testing import ScriptedEngine

SHOP = Path("genrank/data/sample_shop/intents.jsonl")


def test_a_label_has_slots() -> None:
    label = {"categories": [["A", "B"], ["C"]], "attributes": {"n": "v"}, "most_price": 800, "excluded": ["x"]}
    assert slots_of(label) == {
        ("category", "A > B"), ("category", "C"), ("attributes.n", "v"), ("most_price", "800"), ("excluded", "x")
    }  # fmt: skip


@pytest.mark.parametrize(
    ("found", "counts"),
    [
        (["A > B", "A > C"], (1, 0, 0)),
        (["A"], (1, 0, 0)),
        (["AB"], (0, 1, 1)),
        (["D", "E"], (0, 1, 2)),
        ([], (0, 1, 0)),
    ],
)
def test_all_categories_are_one_slot(found: list[str], counts: tuple[int, int, int]) -> None:
    right, missing, wrong = compare({("category", one) for one in found}, {("category", "A")})
    assert (len(right), len(missing), len(wrong)) == counts


def test_scores() -> None:
    found = scores({"right": 3, "missing": 1, "wrong": 2})
    assert found == {"precision": 0.6, "recall": 0.75, "F1": pytest.approx(6 / 9), "slots": 4}
    assert scores({})["F1"] == 0


def test_every_label_of_the_sample_shop_is_in_the_catalogues_words() -> None:
    dataset, labels = sample_shop(), read_labels(SHOP)
    assert set(labels) == {query.query.query_id for query in dataset.queries}
    vocabulary = Vocabulary.of(dataset.listings.values())
    for label in labels.values():
        for path in label.get("categories", ()):
            assert any(known[: len(path)] == tuple(path) for known in vocabulary.categories), path
        assert label.get("brand", "Halvendal") in vocabulary.brands


def test_literal_slots_are_measured_without_a_model() -> None:
    dataset = sample_shop()
    silent = ScriptedEngine([])
    results = measure(dataset, read_labels(SHOP), Understanding(silent, Vocabulary.of(dataset.listings.values())), None)
    assert results["scores"]["most_price"]["F1"] == 1
    assert results["scores"]["brand"]["F1"] == 1
    assert results["scores"]["all"]["F1"] < 0.5


def test_wrong_labels_are_named(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text('{"query_id": "a"}\n{"query_id": "a"}\n')
    with pytest.raises(DataFormatError, match=r"labels.jsonl:2.*query_id"):
        read_labels(file)


def test_a_split_without_labels_is_named() -> None:
    understanding = Understanding(ScriptedEngine([]), Vocabulary.of([]))
    with pytest.raises(InputError, match="no labelled query in nowhere"):
        measure(sample_shop(), read_labels(SHOP), understanding, ["nowhere"])


def test_a_missing_file_ends_the_program(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--labels", str(tmp_path / "none.jsonl")]) == 1
    assert "none.jsonl" in capsys.readouterr().err
    (tmp_path / "list.jsonl").write_text(json.dumps([1]))
    assert main(["--labels", str(tmp_path / "list.jsonl")]) == 1


def test_examples_are_of_another_split_and_not_measured() -> None:
    dataset, labels = sample_shop(), read_labels(SHOP)
    found = examples_of(dataset, labels, "train", ["dev", "test"])
    texts = [example.query for example in found]
    measured = {query.query.text for query in dataset.queries if query.split != "train"}
    assert len(texts) == len(set(texts)) > 10
    assert not measured & set(texts)
    assert examples_of(dataset, labels, None, None) == []
    for split, others in (("train", None), ("test", ["test"])):
        with pytest.raises(InputError, match=f"examples: {split} is measured"):
            examples_of(dataset, labels, split, others)
