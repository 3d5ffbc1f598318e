from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from genrank.cli.main import main
from genrank.engines.base import TextRequest
from genrank.testing import ScriptedEngine

LISTINGS = [
    {"listing_id": "a", "title": "Blue Mug", "attributes": {"colour": "blue"}},
    {"listing_id": "b", "title": "Red Plate"},
]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ScriptedEngine:
    """Stands in for the model that the command would load."""
    texts: Sequence[str] = ("A blue mug.", "The best plate.", "Mug, Blue", "Plate")
    scripted = ScriptedEngine(texts)

    class Loaded:
        def __init__(self, *_: Any, **options: Any) -> None:
            self.engine = scripted

    monkeypatch.setattr("genrank.reranker.Reranker", Loaded)
    return scripted


@pytest.fixture
def listings(tmp_path: Path) -> str:
    path = tmp_path / "listings.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in LISTINGS), encoding="utf-8")
    return str(path)


def test_each_listing_gets_a_summary_and_a_title(
    engine: ScriptedEngine, listings: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["words", listings, "--query", "blue mug"]) == 0
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["listing_id"], line["kind"], line["fate"]) for line in lines] == [
        ("a", "summary", "kept"),
        ("a", "title", "kept"),
        ("b", "summary", "fallback"),
        ("b", "title", "fallback"),
    ]
    assert lines[1]["text"] == "Mug, Blue"
    assert lines[3]["text"] == "Red Plate"
    assert "2 kept, 0 cut, 2 fallback" in err
    assert all(isinstance(request, TextRequest) for request in engine.requests)


def test_one_kind_alone(engine: ScriptedEngine, listings: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["words", listings, "--only", "summary", "--batch", "1"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["kind"] for line in lines] == ["summary", "summary"]
    assert engine.calls == 2


def test_wrong_calls_are_named(engine: ScriptedEngine, listings: str, capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--batch", "0"], ["--max-chars", "0"], ["--deadline", "0"]):
        assert main(["words", listings, *options]) == 2
        assert options[0].strip("-") in capsys.readouterr().err
