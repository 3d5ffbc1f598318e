"""The tutorials, followed literally: with tiny models of random weights in place of the real ones, and once with all
that they name, from an empty environment."""

from __future__ import annotations

import json
import re
import socket
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tiny_home import make_home
from tests.tutorial import PAGES, blocks, copy_checkout, follow, installed, main

pytestmark = pytest.mark.timeout(3600)
pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")


@pytest.mark.parametrize(
    "page",
    [PAGES[0], pytest.param(PAGES[1], marks=pytest.mark.slow)],  # the other language runs the same programs
    ids=lambda page: page.stem,
)
def test_with_tiny_models(page: Path, tmp_path: Path) -> None:
    for package in ("trl", "fastapi", "limits", "bm25s", "ranx"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'genrank[train,server]'")
    clone = copy_checkout(tmp_path / "genrank")
    environment = installed(tmp_path, clone) | {"GENRANK_HOME": str(make_home(tmp_path / "models"))}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    todo = [replace(block, code=block.code.replace("8080", port)) for block in blocks(page) if not block.installs]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out:
        status = follow(todo, clone, environment, out)
        out.seek(0)
        said = out.read()
    assert status == 0, said[-6000:]
    (folder,) = set(re.findall(r"--out (\S+)", page.read_text(encoding="utf-8")))
    results = json.loads((clone / folder / "results.json").read_text(encoding="utf-8"))
    assert results["complete"]
    assert list(results["systems"]) == ["bm25", "untrained", "trained"]
    answer, _ = json.JSONDecoder().raw_decode(said, said.rindex('{"id"'))  # the server's log stands around it
    assert sorted(item["index"] for item in answer["results"]) == [0, 1]
    assert answer["genrank"]["outcome"] == "model"


@pytest.mark.slow  # installs everything and fetches the model
@pytest.mark.model
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_from_an_empty_environment(page: Path, tmp_path: Path) -> None:
    assert main([str(page), "--work", str(tmp_path / "work")]) == 0
