from __future__ import annotations

import io
import json
import subprocess
import sys
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


WITHOUT_RICH = """
import contextlib, io, json, sys
sys.modules["rich"] = None
sys.path.insert(0, sys.argv[1])
from genrank.cli.main import main
done = []
for arguments in json.loads(sys.argv[2]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(arguments)
        except SystemExit as ended:
            status = ended.code
    done.append((status, out.getvalue(), err.getvalue()))
print(json.dumps(done))
"""


def test_the_commands_work_without_rich(tmp_path: Path) -> None:
    """In one process, since starting it takes longer than the commands."""
    calls: list[tuple[list[str], int, list[str], str]] = [
        (["--version"], 0, ["genrank "], ""),
        (["models", "list"], 0, [*KNOWN_MODELS, "licence"], ""),
        (["prompts", "list"], 0, [*template_names(), "decodings"], ""),
        (["prompts", "show", "inline"], 0, ["name = "], ""),
        (["models", "fetch", "smollm2"], 1, [], "genrank: 'smollm2' is not a known model"),
        (["rerank", "missing.jsonl"], 1, [], "genrank: missing.jsonl: expected a readable file"),
    ]
    command = [sys.executable, "-c", WITHOUT_RICH, str(ROOT), json.dumps([arguments for arguments, *_ in calls])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    for (arguments, expected, texts, begin), (status, out, err) in zip(calls, json.loads(done.stdout), strict=True):
        assert (status, err[: len(begin)]) == (expected, begin), arguments
        assert "Traceback" not in err
        assert [text for text in texts if text not in out] == []
