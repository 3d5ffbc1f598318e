"""The command line with an engine double in place of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from genrank.data.jsonl import dump_line
from genrank.engines.base import Engine
from genrank.testing import OracleEngine

GRADES = {"p1": 1.0, "p2": 3.0}


def _line(number: int = 1, **change: Any) -> dict[str, Any]:
    candidates = [{"listing_id": f"p{i}", "title": f"Title {i}"} for i in range(3)]
    return {"query_id": f"q{number}", "query": "dress", "candidates": candidates} | change


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    """A file with two valid request lines."""
    path = tmp_path / "requests.jsonl"
    path.write_text(dump_line(_line(1)) + dump_line(_line(2)), encoding="utf-8")
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """The engines that were asked for; each is replaced by one that knows the grades."""
    calls: list[tuple[object, ...]] = []

    def load(engine: object, model: str, adapter: str | None, dtype: str, *_: bool) -> Engine:
        calls.append((engine, model, adapter, dtype))
        return OracleEngine(GRADES)

    monkeypatch.setattr("genrank.reranker._load_engine", load)
    return calls


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GENRANK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "80")
