from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from genrank.cli.console import Cell, Table, plain_lines, print_table, progress, say
from genrank.models.registry import KNOWN_MODELS
from genrank.prompting.template import template_names

ROOT = Path(__file__).resolve().parents[3]
TABLE = Table(
    columns=("name", "number"),
    rows=[[Cell("[red]a[/red]"), Cell("1", "green")], [Cell("long name\nand more"), Cell("12")]],
    title="[b]title",
    caption=[Cell("under it", "red"), Cell("[/] and more")],
    numbers=frozenset({"number"}),
)


def test_a_plain_table_is_aligned() -> None:
    assert list(plain_lines(TABLE)) == [
        "[b]title",
        "name                 number",
        "[red]a[/red]              1",
        "long name, and more      12",
        "under it",
        "[/] and more",
    ]


@pytest.mark.parametrize("with_rich", [True, False])
def test_every_text_is_in_a_table_as_it_is(with_rich: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not with_rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    out = io.StringIO()
    print_table(TABLE, out)
    printed = out.getvalue()
    for text in ("[b]title", "name", "number", "[red]a[/red]", "long name", "and more", "12", "under it", "[/] and"):
        assert text in printed
    assert ("━" in printed) == with_rich


def test_a_table_without_rows_has_its_headings() -> None:
    out = io.StringIO()
    print_table(Table(("name",), [], whole=frozenset({"name"})), out)
    assert "name" in out.getvalue()
    assert list(plain_lines(Table(("name",), []))) == ["name"]


def test_words_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    say("one\x1b[31m two\x07\r 连衣裙 [red]\nthree")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "one [31m two   连衣裙 [red]\nthree\n")
    monkeypatch.setattr(sys, "stderr", None)
    say("nobody hears this")
    assert capsys.readouterr().out == ""


def test_without_rich_progress_is_told_in_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("rich", "rich.console"):
        monkeypatch.setitem(sys.modules, name, None)
    told = progress()
    told.start("reading the model", 10)
    told.advance(10)
    told.say("done")
    told.stop()
    assert capsys.readouterr() == ("", "reading the model\ndone\n")


@pytest.mark.parametrize(
    ("arguments", "status", "out", "err"),
    [
        (["--version"], 0, ["genrank "], ""),
        (["models", "list"], 0, [*KNOWN_MODELS, "licence"], ""),
        (["prompts", "list"], 0, [*template_names(), "decodings"], ""),
        (["prompts", "show", "inline"], 0, ["name = "], ""),
        (["models", "fetch", "smollm2"], 1, [], "genrank: 'smollm2' is not a known model"),
        (["rerank", "missing.jsonl"], 1, [], "genrank: missing.jsonl: expected a readable file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_commands_work_without_rich(
    arguments: Sequence[str], status: int, out: Sequence[str], err: str, tmp_path: Path
) -> None:
    program = (
        "import sys; sys.modules['rich'] = None; sys.path.insert(0, sys.argv.pop(1)); "
        "from genrank.cli.main import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", program, str(ROOT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr[: len(err)]) == (status, err)
    assert "Traceback" not in done.stderr
    for text in out:
        assert text in done.stdout
