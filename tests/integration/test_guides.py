"""Every block of the how-tos and of the pages beside them runs, with tiny models of random weights."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.tiny_home import make_home
from tests.tutorial import ROOT, blocks, copy_checkout, follow, installed

pytestmark = pytest.mark.timeout(1800)
pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")

PAGES = sorted([*(ROOT / "docs/how-to").glob("*.md"), ROOT / "docs/gpus.md", ROOT / "docs/classic.md"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A copy of the checkout, and the variables of a shell in it."""
    for package in ("duckdb", "fastapi", "limits", "bm25s", "ranx"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'genrank[eval,feedback,server]'")
    work = tmp_path_factory.mktemp("guides")
    clone = copy_checkout(work / "genrank")
    return clone, installed(work, clone) | {"GENRANK_HOME": str(make_home(work / "models"))}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_all_blocks_run(page: Path, place: tuple[Path, dict[str, str]]) -> None:
    todo = blocks(page)
    assert todo
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out:
        status = follow(todo, *place, out)
        out.seek(0)
        said = out.read()
    assert status == 0, said[-6000:]
