from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("rich", reason="rich is not installed: pip install 'genrank[cli]'")

from examples import demo
from genrank import sample_shop
from genrank.engines.base import Engine
from genrank.models.registry import DEFAULT_MODEL
from genrank.testing import OracleEngine

SHOP = sample_shop()
GRADES = {key: float(grade) for query in SHOP.split("test") for key, grade in SHOP.qrels[query.query.query_id].items()}


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """The models and adapters that were loaded; in place of each comes an engine that knows the grades."""
    found: list[tuple[str, str | None]] = []

    def load(_: object, model: str, adapter: str | None, *__: object) -> Engine:
        found.append((model, adapter))
        return OracleEngine(GRADES)

    monkeypatch.setattr("genrank.reranker._load_engine", load)
    monkeypatch.setattr(sys, "argv", ["demo", "--bare"])
    monkeypatch.setenv("COLUMNS", "220")
    return found


def test_it_shows_both_languages_the_figures_and_the_times(
    loaded: list[tuple[str, str | None]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main() == 0
    out = capsys.readouterr().out
    assert loaded == [(DEFAULT_MODEL, None)]
    queries = {query.query.query_id: query.query.text for query in SHOP.split("test")}
    assert {query_id[:4] for query_id in demo.SHOWN} == {"q-en", "q-zh"}
    for query_id in demo.SHOWN:
        assert out.count(queries[query_id]) >= 2, "once with its orders, once with its times"
    rows = {row.split()[1]: row.split() for row in out.replace("│", "|").splitlines() if row.startswith("| ")}
    for language in ("English", "Chinese"):
        first_stage, genrank = float(rows[language][-4]), float(rows[language][-2])
        assert first_stage < genrank <= 1
    assert "first time" in out
    assert "nothing was trained for this shop" in out


def test_a_model_that_reads_english_only_says_so(
    loaded: list[tuple[str, str | None]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["demo", "--bare", "--model", "smollm2-135m"])
    assert demo.main() == 0
    assert f"smollm2-135m knows English only; {DEFAULT_MODEL} reads Chinese too." in capsys.readouterr().out


def test_a_model_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed: pip install 'genrank[transformers]'")
    monkeypatch.setenv("GENRANK_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["demo"])
    assert demo.main() == 1
    err = capsys.readouterr().err
    assert err.startswith("demo: ")
    assert f"genrank models fetch {DEFAULT_MODEL}" in err
