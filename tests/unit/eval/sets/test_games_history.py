import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from eval.sets import games_history
from genrank.data.dataset import Dataset
from genrank.errors import DataFormatError
from genrank.experiment.splits import split_of

ITEMS = [{"item_id": str(i), "title": f"Game\u200b {i}"} for i in range(6)]
USERS: list[dict[str, Any]] = [
    {"user_id": "7", "history": ["0", "1", "0"], "target": "2", "sasrec": ["3", "2", "1"]},
    {"user_id": "8", "history": [], "target": "5", "sasrec": ["4"]},
]


def write(folder: Path, items: list[Any] = ITEMS, users: list[Any] = USERS) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in (("items", items), ("users", users)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_reads(tmp_path: Path) -> None:
    notes: Counter[str] = Counter()
    dataset = games_history.read(write(tmp_path / "g"), notes)
    first, second = dataset.queries
    assert [query.query.query_id for query in dataset.queries] == ["user-7", "user-8"]
    assert {query.query.text for query in dataset.queries} == {"video games"}
    assert [(event.event, event.listing.title, event.time) for event in first.history] == [
        ("purchase", "Game 0", None),
        ("purchase", "Game 1", None),
        ("purchase", "Game 0", None),
    ]
    assert second.history == ()
    assert dataset.qrels == {"user-7": {"2": 1}, "user-8": {"5": 1}}  # the second's target is not a candidate
    assert dataset.candidates == {"user-7": {"3": 3.0, "2": 2.0, "1": 1.0}, "user-8": {"4": 1.0}}
    assert dataset.first_stage == "sasrec"
    assert [query.split for query in dataset.queries] == [split_of("7"), split_of("8")]
    assert notes == {"targets_in_sasrec_20": 1, "targets_in_sasrec_50": 1}
    dataset.save(tmp_path / "out")
    assert Dataset.load(tmp_path / "out") == dataset


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"target": "9"}, r"users\.jsonl:2: expected item ids of the items file, found '9'"),
        ({"history": ["9"]}, r"users\.jsonl:2: .*'9'"),
        ({"sasrec": ["9"]}, r"users\.jsonl:2: .*'9'"),
        ({"sasrec": ["1", "1"]}, r"users\.jsonl:2: expected each item once in sasrec"),
        ({"sasrec": []}, r"users\.jsonl:2: .*found sasrec: "),
        ({"history": "0"}, r"users\.jsonl:2: .*found history: "),
        ({"user_id": "7"}, r"users\.jsonl:2: expected each user_id once"),
        ({"user_id": "a b"}, r"users\.jsonl:2: .*found user_id: .*white space"),
    ],
)
def test_wrong_users(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(DataFormatError, match=words):
        games_history.read(write(tmp_path / "g", users=[USERS[0], USERS[1] | changed]), Counter())


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    for column in USERS[0]:
        row = {key: value for key, value in USERS[0].items() if key != column}
        with pytest.raises(DataFormatError, match=rf"users\.jsonl:1: .*found {column}: Field required"):
            games_history.read(write(tmp_path / "g", users=[row]), Counter())


@pytest.mark.parametrize(
    ("item", "words"),
    [({"item_id": "0", "title": "again"}, "each item_id once"), ({"item_id": "9", "title": " "}, "title: ")],
)
def test_wrong_items(tmp_path: Path, item: dict[str, str], words: str) -> None:
    with pytest.raises(DataFormatError, match=rf"items\.jsonl:7: .*{words}"):
        games_history.read(write(tmp_path / "g", items=[*ITEMS, item]), Counter())


def test_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match="no folder"):
        games_history.read(tmp_path / "none", Counter())
