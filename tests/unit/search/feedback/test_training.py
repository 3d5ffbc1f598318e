import json
import random
import re
from pathlib import Path

import pytest

pytest.importorskip("duckdb")

from finetune.windows import WindowOptions, draw_windows
from genrank.data.dataset import Dataset
from genrank.errors import InputError
from genrank.search.feedback.bias import Attraction
from genrank.search.feedback.training import training_set
from genrank.types import Listing

LISTINGS = {key: Listing(key, f"lamp {key}") for key in "abcd"}


def attraction(query: str, key: str, estimate: float, examined: float = 5.0) -> Attraction:
    return Attraction(query, key, 1.0, 7, 3, examined, estimate)


FOUND = [
    attraction("desk", "a", 0.2),
    attraction("desk", "b", 0.2),
    attraction("lamp", "c", 0.1),
    attraction("lamp", "a", 0.4),
    attraction("lamp", "gone", 0.9),
    attraction("lamp", "d", 0.3, examined=0.5),
]


def test_a_log_becomes_a_dataset_that_training_reads(tmp_path: Path) -> None:
    made = training_set(FOUND, LISTINGS)
    made.save(tmp_path)
    dataset = Dataset.load(tmp_path)
    (query,) = dataset.split("train")
    assert (query.query.text, query.frequency) == ("lamp", 7)
    assert dataset.qrels == {query.query.query_id: {"c": 25, "a": 100}}
    assert list(dataset.candidates[query.query.query_id]) == ["c", "a"]
    assert set(dataset.listings) == {"a", "c"}
    assert (made.seldom_seen, made.unknown, made.undecided) == (1, 1, 1)
    lines = [json.loads(line) for line in (tmp_path / "attractions.jsonl").read_text().splitlines()]
    assert [(line["listing_id"], line["clicked"], line["estimate"]) for line in lines] == [("c", 3, 0.1), ("a", 3, 0.4)]
    (window,) = draw_windows(dataset, "train", WindowOptions(shuffle=False))
    assert window.gains == (0.25, 1.0)


def test_nothing_to_learn_is_an_error() -> None:
    with pytest.raises(InputError, match=r"2 pairs, 2 looked at often enough, 2 of them in the catalogue"):
        training_set(FOUND[:2], LISTINGS)
    with pytest.raises(InputError, match="least_examined: must be 0 or more"):
        training_set(FOUND, LISTINGS, least_examined=-1)


def test_the_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    random.seed(0)
    page = Path(__file__).parents[4] / "docs/feedback.md"
    names: dict[str, object] = {}
    for code in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        exec(compile(code, str(page), "exec"), names)
    assert names["rates"].to_pylist()[1] == {"rank": 2, "rate": 1.0}  # type: ignore[attr-defined]
    qrels = Dataset.load("clicked").qrels
    assert [max(own, key=own.__getitem__) for own in qrels.values()] == ["p2"]
