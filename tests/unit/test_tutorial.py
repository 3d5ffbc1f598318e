"""Both tutorials say the same, and their first steps, which need no model, are followed literally."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from genrank.data.dataset import Dataset
from tests.tutorial import PAGES, ROOT, Block, blocks, copy_checkout, follow, home, installed

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def program(block: Block) -> list[str]:
    """What a block runs, without what differs between the languages."""
    code = re.sub(r"<<'END'\n.*?^END$", "", block.code, flags=re.DOTALL | re.MULTILINE)
    code = re.sub(r"'\{.*?\}'|runs/\S+|examples/\S+|smollm2-135m|qwen2\.5-coder-0\.5b|\"runs/[^\"]*\"", "X", code)
    return [line.split(" --datasets ")[0].rstrip() for line in code.splitlines() if line.strip()]


def test_both_languages_run_the_same() -> None:
    english, chinese = ([(block.language, program(block)) for block in blocks(page)] for page in PAGES)
    assert len(english) == 9
    assert english == chinese


def test_the_data_block_installs_nothing_and_the_first_one_does() -> None:
    for page in PAGES:
        assert [block.installs for block in blocks(page)] == [True] + [False] * (len(blocks(page)) - 1)


@each_page
def test_the_data_become_a_dataset(page: Path, tmp_path: Path) -> None:
    pytest.importorskip("bm25s", reason="bm25s is not installed: pip install 'genrank[search]'")
    clone = copy_checkout(tmp_path / "genrank")
    head, make = blocks(page)[1:3]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out:
        status = follow([head, make], clone, installed(tmp_path, clone), out)
        out.seek(0)
        said = out.read()
    assert status == 0, said
    (folder,) = re.findall(r"shop-csv \S+ (\S+)", make.code)
    shop = Dataset.load(clone / folder)
    assert {split: len(shop.split(split)) for split in ("train", "dev", "test")} == {"train": 22, "dev": 4, "test": 12}
    assert shop.first_stage == "bm25"
    (shown,) = re.findall(r"```csv\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    files = [path.read_text(encoding="utf-8") for path in (clone / make.code.split()[4]).glob("*.csv")]
    for line in filter(None, shown.splitlines()):
        assert any(line in text.splitlines() for text in files), line


def test_a_failing_block_ends_it(tmp_path: Path) -> None:
    todo = [Block("sh", "true\n", 1), Block("sh", "false\n", 2), Block("sh", "touch after\n", 3)]
    assert follow(todo, tmp_path, dict(os.environ)) == 1
    assert not (tmp_path / "after").exists()


def test_python_blocks_and_background_jobs_run(tmp_path: Path) -> None:
    todo = [
        Block("sh", "sleep 600 &\necho $! > pid\n", 1),
        Block("python", "import json\nprint(json.dumps('done'), file=open('said', 'w'))\n", 2),
    ]
    clone = tmp_path / "clone"
    (clone / "genrank").mkdir(parents=True)
    assert follow(todo, clone, installed(tmp_path, clone)) == 0
    assert json.loads((clone / "said").read_text()) == "done"
    pid = (clone / "pid").read_text().strip()
    state = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True, check=False).stdout
    assert state.strip()[:1] in ("", "Z")


def test_a_clean_home_has_no_variables_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENRANK_HOME", "/elsewhere")
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "9")
    found = home(tmp_path)
    assert "GENRANK_HOME" not in found
    assert found["PIP_DEFAULT_TIMEOUT"] == "9"
    assert list(Path(found["HOME"]).iterdir()) == []


def test_a_copy_holds_what_git_would_take(tmp_path: Path) -> None:
    clone = copy_checkout(tmp_path / "genrank")
    assert (clone / "docs/tutorial.md").read_bytes() == (ROOT / "docs/tutorial.md").read_bytes()
    assert not (clone / ".venv").exists()
