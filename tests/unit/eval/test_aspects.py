from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.aspects import main, measure, read_labels, scores
from genrank.words import AspectReader

LINES = [
    {"category": ["Dresses"], "sentence": "Runs small.", "aspects": {"fit": "negative"}},
    {
        "category": ["Dresses"],
        "split": "test",
        "sentence": "The fabric is lovely.",
        "aspects": {"material": "negative"},
    },
    {"listing_id": "zh-dress-004", "sentence": "冬天一件就够暖。", "aspects": {"warmth": "positive"}},
    {"category": [], "sentence": "Bought in May.", "aspects": {"price": "positive"}},
]


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_pairs_are_scored_with_and_without_their_polarity(tmp_path: Path) -> None:
    results = measure(read_labels(write(tmp_path / "labels.jsonl", *LINES)), AspectReader())
    assert results["scores"]["all"] == {"precision": 2 / 3, "recall": 2 / 4, "F1": 4 / 7, "labels": 4}
    assert results["scores"]["all found"]["precision"] == 1.0
    assert results["scores"]["dev zh"]["F1"] == 1.0
    assert (
        results["scores"]["test"]
        == results["scores"]["test en"]
        == {
            "precision": 0.0,
            "recall": 0.0,
            "F1": 0.0,
            "labels": 1,
        }
    )
    assert results["source"] == "literal"


def test_nothing_found_and_nothing_to_find_is_no_division_by_zero() -> None:
    from collections import Counter

    assert scores(Counter()) == {"precision": 0.0, "recall": 0.0, "F1": 0.0, "labels": 0}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"sentence": "x", "aspects": {}}, "a known listing_id or a category"),
        ({"listing_id": "nobody", "sentence": "x", "aspects": {}}, "nobody"),
        ({"category": [], "sentence": "x", "aspects": {"fit": "good"}}, "'good'"),
        ("text", "TypeError"),
    ],
)
def test_a_broken_label_is_named(line: object, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--labels", str(write(tmp_path / "labels.jsonl", line)), "--literal"]) == 1
    err = capsys.readouterr().err
    assert says in err
    assert "labels.jsonl:1" in err


def test_the_shops_labels_are_of_sentences_that_stand_in_its_reviews(tmp_path: Path) -> None:
    assert main(["--literal", "--out", str(tmp_path / "out.json")]) == 0
    results = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert len(results["sentences"]) == 149
    assert results["scores"]["dev"]["F1"] > 0.8
    assert results["scores"]["test"]["precision"] > 0.8
