"""Output of the commands: messages on stderr, tables on stdout, drawn by rich if it is installed."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from typing import IO, NamedTuple

from genrank.progress import ConsoleProgress, Progress, Silent


class Cell(NamedTuple):
    """The text of a table's cell, and its style for rich."""

    text: str
    style: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table for people.

    Attributes:
        columns: Headings.
        rows: ``[rows][columns]``; a text may hold line breaks.
        title: Above the table.
        caption: Lines under it.
        numbers: Headings of the columns that are aligned at the right.
        whole: Headings of the columns that are never folded.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    caption: Sequence[Cell] = ()
    numbers: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()


def print_table(table: Table, file: IO[str]) -> None:
    """Print a table, drawn by rich if it is installed, or else with two spaces between the columns."""
    try:
        from rich.console import Console
        from rich.table import Table as Drawn
        from rich.text import Text
    except ImportError:
        print("\n".join(plain_lines(table)), file=file)
        return
    # Text, not str: a listing's text is data, and must not be read as rich's markup
    caption = Text("\n").join(Text(*cell) for cell in table.caption)
    drawn = Drawn(
        title=Text(table.title, style="bold") if table.title else None,
        title_justify="left",
        caption=caption if table.caption else None,
        caption_justify="left",
    )
    for heading in table.columns:
        whole = heading in table.whole
        # rich may narrow a column that does not wrap, down to this width
        least = max((len(row[table.columns.index(heading)].text) for row in table.rows), default=0) if whole else None
        drawn.add_column(
            heading,
            justify="right" if heading in table.numbers else "left",
            no_wrap=whole,
            min_width=least,
            overflow="fold",
            max_width=None if whole else 60,
        )
    for row in table.rows:
        drawn.add_row(*(Text(*cell) for cell in row))
    Console(file=file).print(drawn)


def plain_lines(table: Table) -> Iterator[str]:
    """The lines of a table without any drawing."""
    if table.title:
        yield table.title
    cells = [table.columns, *([cell.text.replace("\n", ", ") for cell in row] for row in table.rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.columns))]
    for row in cells:
        aligned = (
            text.rjust(width) if heading in table.numbers else text.ljust(width)
            for heading, text, width in zip(table.columns, row, widths, strict=True)
        )
        yield "  ".join(aligned).rstrip()
    for cell in table.caption:
        yield cell.text


def say(words: str) -> None:
    """Write a message to stderr, if it is open; control characters become spaces."""
    if sys.stderr is not None:
        print("".join(char if char == "\n" or char.isprintable() else " " for char in words), file=sys.stderr)


class _Lines(Silent):
    """A `Progress` that prints a line for each step, without bars."""

    def start(self, label: str, total_bytes: int | None) -> None:  # noqa: ARG002 - Progress's signature
        say(label)

    def say(self, text: str) -> None:
        say(text)


def progress() -> Progress:
    """Bars if rich is installed and stderr is a terminal, or else lines."""
    try:
        return ConsoleProgress()
    except ImportError:
        return _Lines()


def quiet_libraries() -> None:
    """Keep the libraries' own bars and warnings off the terminal; genrank reports its own progress."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
