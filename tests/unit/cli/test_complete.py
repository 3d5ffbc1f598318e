"""genrank complete: suggestions as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bm25s")
pytest.importorskip("duckdb")

from genrank.cli.main import main
from genrank.search.feedback.log import FeedbackLog, Shown
from genrank.search.index import Index
from genrank.types import Listing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Index.create(tmp_path / "index") as index:
        index.add([Listing("1", "Red mug", category=("Mugs",)), Listing("2", "Red mug, big", category=("Mugs",))])
    return tmp_path / "index"


def complete(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["complete", *arguments]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def texts(answer: dict[str, Any]) -> list[str]:
    return [one["text"] for one in answer["suggestions"]]


def test_the_first_call_makes_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = complete(capsys, "red", "--index", str(folder), "-n", "1")
    assert answer["prefix"] == "red"
    assert answer["suggestions"] == [{"text": "red", "score": 0.15, "source": "title", "match": "prefix"}]
    with Index.open(folder) as index:
        index.add([Listing("3", "Teapot", category=("Pots",))])
    assert texts(complete(capsys, "po", "--index", str(folder))) == []
    assert texts(complete(capsys, "po", "--index", str(folder), "--update")) == ["Pots"]


def test_the_log_is_counted(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    log = FeedbackLog(tmp_path / "log")
    log.write([Shown(f"r{i}", ["1"], "red mug for tea", user_id=f"u{i}") for i in range(3)])
    log.write([Shown("s", ["1"], "red secret", user_id="u1")])
    command = ["red m", "--index", str(folder), "--log", str(tmp_path / "log")]
    for _ in range(2):  # made, and then renewed
        assert texts(complete(capsys, *command)) == ["red mug for tea", "red mug"]
    assert texts(complete(capsys, "red s", "--index", str(folder))) == []


@pytest.mark.parametrize(("more", "said"), [(["-n", "0"], "count"), (["--index", "none"], "no index in none")])
def test_wrong_calls_are_named(folder: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str) -> None:
    assert main(["complete", "red", "--index", str(folder), *more]) == 2
    assert said in capsys.readouterr().err
