"""genrank search: one search over an index, as JSON or as a table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("bm25s")
pytest.importorskip("duckdb")

from genrank.cli.main import main
from genrank.search.feedback.log import FeedbackLog
from genrank.search.index import Index
from genrank.search.shoppers import Shoppers
from genrank.types import Interaction, Listing

LISTINGS = [
    Listing("d1", "Beach dress", brand="Ada"),
    Listing("d2", "Party dress", brand="Ada"),
    Listing("d3", "Warm dress", brand="Bea"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Index.create(tmp_path / "index") as index:
        index.add(LISTINGS)
    return tmp_path / "index"


def test_without_a_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "party dress", "--index", str(folder), "--no-rank", "--top-k", "2"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["items"][0]["listing_id"] == "d2"
    assert len(answer["items"]) == 2
    assert answer["found"] == 3
    assert [stage["name"] for stage in answer["stages"]] == ["match", "rank"]


def test_a_table(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text("buried = ['d2']\n[pinned]\nnone = 1\n")
    command = ["search", "party dress", "--index", str(folder), "--no-rank", "--format", "table"]
    assert main([*command, "--rules", str(tmp_path / "rules.toml"), "--variety", "0.5"]) == 0
    out = capsys.readouterr().out
    assert out.index("Beach dress") < out.index("Party dress")
    for stage in ("match", "vary", "rules"):
        assert stage in out
    assert main([*command[:1], "zeppelin", *command[2:]]) == 0
    assert "nothing was found" in capsys.readouterr().err


def test_shoppers_and_log(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with Shoppers(tmp_path / "shoppers") as shoppers:
        shoppers.add("u1", [Interaction("view", Listing("h", "Hat"))])
    command = ["search", "dress", "--index", str(folder), "--no-rank", "--user", "u1"]
    command += ["--shoppers", str(tmp_path / "shoppers"), "--log", str(tmp_path / "log")]
    assert main(command) == 0
    answer = json.loads(capsys.readouterr().out)
    assert "personalise" in [stage["name"] for stage in answer["stages"]]
    rows = FeedbackLog(tmp_path / "log").query("SELECT request_id, listing_id FROM impressions ORDER BY rank")
    assert rows.column("request_id").to_pylist() == [answer["request_id"]] * 3


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--user", "u1"], "--shoppers"),
        (["--understand"], "--no-rank"),
        (["--variety", "3"], "variety"),
        (["--rules", "none.toml"], "none.toml"),
        (["--estimates", "none.json", "--weight", "0.5"], "none.json"),
        (["--weight", "0.5"], "weight"),
        (["--top-k", "0"], "top_k"),
        (["--candidates", "0"], "candidates"),
    ],
)
def test_wrong_calls_are_named(folder: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str) -> None:
    assert main(["search", "dress", "--index", str(folder), "--no-rank", *more]) in (1, 2)
    assert said in capsys.readouterr().err


def test_a_missing_index_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "dress", "--index", str(tmp_path / "none"), "--no-rank"]) == 2
    assert "no index in" in capsys.readouterr().err
