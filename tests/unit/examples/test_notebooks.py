"""The notebooks as they lie in git: without outputs, and with the default model."""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from genrank.models.registry import DEFAULT_MODEL

EXAMPLES = Path(__file__).parents[3] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    book = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in book["cells"] if cell["cell_type"] == kind]


def test_there_are_two() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["evaluation", "reranking"]


@each_notebook
def test_it_holds_no_outputs(path: Path) -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(path, "code"))


@each_notebook
def test_its_model_is_the_default_one_and_its_imports_exist(path: Path) -> None:
    tree = ast.parse("\n".join("".join(cell["source"]) for cell in cells(path, "code")))
    named = [
        node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and [getattr(target, "id", "") for target in node.targets] == ["MODEL"]
    ]
    assert named == [DEFAULT_MODEL]
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert [module for module in modules if importlib.util.find_spec(module) is None] == []


@each_notebook
def test_its_links_lead_somewhere(path: Path) -> None:
    text = "".join("".join(cell["source"]) for cell in cells(path, "markdown"))
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    assert links
    assert [link for link in links if not (EXAMPLES / link).exists()] == []
