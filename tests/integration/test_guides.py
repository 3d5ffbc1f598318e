"""Every block of the how-tos and of the pages beside them runs, and the Python of all other pages, with tiny models of
random weights."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.page_blocks import PAGES as REFERENCE
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


def test_the_python_of_the_other_pages_runs(place: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    _, environment = place
    environment = environment | {"PYTHONPATH": os.pathsep.join([str(ROOT), environment["PYTHONPATH"]])}
    command = [sys.executable, "-m", "tests.page_blocks"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    for page in REFERENCE:
        count = sum(block.language == "python" for block in blocks(page))
        assert f"{page.name}: {count} blocks" in done.stdout.splitlines()
        assert count
