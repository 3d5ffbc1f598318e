"""The notebooks run from top to bottom in a kernel of their own, with a tiny model of random weights."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_home import make_home
from tests.tutorial import ROOT, copy_checkout

pytestmark = pytest.mark.timeout(1800)
for needed, extra in (("torch", "transformers"), ("ranx", "eval"), ("matplotlib", "baseline")):
    pytest.importorskip(needed, reason=f"{needed} is not installed: pip install 'genrank[{extra}]'")
for needed in ("nbclient", "ipykernel"):
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed: pip install 'genrank[dev]'", allow_module_level=True)

# a process of its own, since Jupyter's warnings are not ours
RUN = """
import json, sys
import nbformat
from nbclient import NotebookClient

book = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(book, timeout=1200, kernel_name="python3", resources={"metadata": {"path": sys.argv[2]}}).execute()
texts = ["".join(out.get("text", "") for out in cell.get("outputs", [])) for cell in book.cells]
images = sum("image/png" in out.get("data", {}) for cell in book.cells for out in cell.get("outputs", []))
print(json.dumps({"texts": texts, "images": images}))
"""


def run(name: str, tmp_path: Path) -> tuple[str, int]:
    """All that a notebook prints, and how many images it draws."""
    clone = copy_checkout(tmp_path / "genrank")
    if not (clone / "genrank" / "prompts").exists():
        (clone / "genrank" / "prompts").symlink_to("../prompts")
    paths = [str(clone), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = os.environ | {
        "GENRANK_HOME": str(make_home(tmp_path / "models")),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path != str(ROOT)),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_PLATFORM_DIRS": "1",
    }
    notebook = clone / "examples" / f"{name}.ipynb"
    command = [sys.executable, "-c", RUN, str(notebook), str(notebook.parent)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return "\n".join(found["texts"]), found["images"]


def test_reranking(tmp_path: Path) -> None:
    said, _ = run("reranking", tmp_path)
    assert "what keeps light out of the bedroom" in said
    assert said.count("(was ") > 20
    assert "model qwen2.5-coder-0.5b pointwise@" in said
    assert "mine@" in said


def test_evaluation(tmp_path: Path) -> None:
    said, images = run("evaluation", tmp_path)
    assert images == 1
    assert "genrank - bm25: " in said
    assert "exit status " in said
    assert json.loads((tmp_path / "genrank/runs/notebook/plain/results.json").read_text(encoding="utf-8"))["complete"]
