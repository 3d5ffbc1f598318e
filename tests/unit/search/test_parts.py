from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("symspellpy")
pytest.importorskip("duckdb")

from genrank.errors import InputError
from genrank.search.index import Index
from genrank.search.parts import Parts, make_rules
from genrank.search.rules import Rules
from genrank.search.shoppers import Shoppers
from genrank.testing import ScriptedEngine


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Index.create(tmp_path / "index") as index:
        index.add([{"listing_id": "d1", "title": "Beach dress", "brand": "Ada"}, {"listing_id": "d2", "title": "Hat"}])
    return tmp_path / "index"


def test_all_parts_work_together(folder: Path, tmp_path: Path) -> None:
    with Parts.open(folder, shoppers=tmp_path / "shoppers", rules={"pinned": {"d2": 1}}, log=tmp_path / "log") as parts:
        result = parts.pipeline(None, candidates=5).search("dress hat", user_id="u1")
        assert [item.listing_id for item in result.ranking] == ["d2", "d1"]
        assert [stage.name for stage in result.stages] == ["match", "personalise", "rank", "rules", "log"]
        unlogged = parts.pipeline(None, log=None).search("dress")
        assert "log" not in [stage.name for stage in unlogged.stages], "an option counts before a part"
        assert parts.understanding(ScriptedEngine([])).vocabulary.brands == {"Ada": 1}
    with pytest.raises(InputError, match="closed"):
        parts.index.search("dress")


def test_what_cannot_be_opened_leaves_nothing_open(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"pinned\.d2"):
        Parts.open(folder, shoppers=tmp_path / "shoppers", rules={"pinned": {"d2": 0}})
    Shoppers(tmp_path / "shoppers").close()


def test_rules_come_from_a_file_or_fields(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text("in_stock = true")
    assert make_rules(tmp_path / "rules.toml") == make_rules({"in_stock": True}) == Rules(in_stock=True)
    assert make_rules(None) is None
