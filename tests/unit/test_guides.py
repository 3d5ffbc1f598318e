"""The guides: short how-tos, and a page on GPUs whose figures are those of its own arithmetic."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import pytest

from genrank.models.registry import KNOWN_MODELS
from tests.page_blocks import PAGES
from tests.tutorial import PAGES as TUTORIALS
from tests.tutorial import ROOT, blocks

DOCS = ROOT / "docs"
HOW_TOS = sorted((DOCS / "how-to").glob("*.md"))
REASONS = ("a GPU", "the encoder's download", "a server", "a trained ranker", "vLLM")
each_how_to = pytest.mark.parametrize("page", HOW_TOS, ids=lambda page: page.stem)


def test_there_is_a_how_to_for_each_task() -> None:
    tasks = {"your-data", "your-model", "your-server", "your-prompt", "your-history", "diversity", "feedback"}
    assert {page.stem for page in HOW_TOS} == tasks


@each_how_to
def test_a_how_to_fits_on_a_screen_runs_and_leads_on(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# How do I ")
    assert len(text.splitlines()) <= 45
    assert blocks(page)
    assert len(re.findall(r"\]\(\.\./[\w/-]+\.md", text)) >= 2


def test_what_is_not_run_says_why() -> None:
    for page in DOCS.glob("**/*.md"):
        for why in re.findall(r"<!-- not run: (.*?) -->", page.read_text(encoding="utf-8")):
            assert why.removeprefix("needs ") in REASONS, page


def test_every_block_of_python_is_run_somewhere() -> None:
    by_unit_tests = DOCS / "integrations.md"  # tests/unit/integrations: each framework's block with the framework
    run = {*PAGES, *TUTORIALS, *HOW_TOS, DOCS / "gpus.md", DOCS / "classic.md", by_unit_tests}
    for page in (ROOT / "README.md", *DOCS.glob("**/*.md")):
        if any(block.language == "python" for block in blocks(page)):
            assert page in run, f"{page}: add it to tests/page_blocks.py, or say why its blocks are not run"


def gpu_models() -> tuple[str, str]:
    """The table of the page, and what its code prints."""
    page = DOCS / "gpus.md"
    (code,) = [block.code for block in blocks(page) if block.language == "python"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(page), "exec"), {})
    return page.read_text(encoding="utf-8").split("|---|---|---|---|---|---|---|\n")[1].split("\n\n")[
        0
    ], printed.getvalue()


def test_the_table_of_gpus_is_what_its_code_prints() -> None:
    table, printed = gpu_models()
    assert table.splitlines() == printed.splitlines()
    assert "| 0 |" not in table


def test_the_arithmetic_in_the_text_is_right() -> None:
    text = (DOCS / "gpus.md").read_text(encoding="utf-8")
    listing = {
        name: float(cells[2])
        for name, *cells in (re.split(r" *\| *", row.strip("| ")) for row in gpu_models()[0].splitlines())
    }
    big, small = listing["`Qwen/Qwen3-8B`"], listing["`qwen2.5-coder-0.5b`"]
    assert f"40 × 1,024 / {big:.2f} = {int(40 * 1024 / big):,} listings" in text
    assert f"and {int(40 * 1024 / small):,} of Qwen2.5-Coder-0.5B" in text
    assert f"{round(312e12 / (2 * 8.19e9), -3):,.0f} tokens a second" in text
    assert f"= {2039e9 / 16.4e9:.0f} steps a second" in text
    cold, kept = 20 * 102, 20 * 35
    assert f"at most {19_000 // cold} and {19_000 // kept} queries a second" in text


def test_the_shapes_are_those_of_the_models_here() -> None:
    """Of those that are fetched on this machine."""
    from genrank.models.store import home

    rows = {}
    for block in blocks(DOCS / "gpus.md"):
        if block.language == "python":
            space: dict[str, object] = {}
            with contextlib.redirect_stdout(io.StringIO()):
                exec(block.code, space)
            models = space["MODELS"]
            assert isinstance(models, dict)
            rows = {name: shape for name, shape in models.items() if name in KNOWN_MODELS}
    assert len(rows) == 4
    for name, (_, layers, heads, size) in rows.items():
        config = home() / "models" / name / "config.json"
        if config.is_file():
            found = json.loads(config.read_text(encoding="utf-8"))
            head = found.get("head_dim") or found["hidden_size"] // found["num_attention_heads"]
            assert (found["num_hidden_layers"], found["num_key_value_heads"], head) == (layers, heads, size)
