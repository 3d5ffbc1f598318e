"""Bars and lines for people."""

from __future__ import annotations

from io import StringIO

import pytest

from genrank.progress import ConsoleProgress


@pytest.mark.parametrize("terminal", [True, False])
def test_console_progress(terminal: bool) -> None:

    from rich.console import Console

    out = StringIO()
    progress = ConsoleProgress(Console(file=out, force_terminal=terminal, width=100))
    progress.start("step [one]", 10)
    progress.advance(5)
    progress.say("a [word]")
    progress.start("step two", None)
    progress.stop()
    assert "a [word]" in out.getvalue()
    assert "step two" in out.getvalue()
    assert ("\x1b[?25h" in out.getvalue()) == terminal  # the cursor is back
