"""Progress of long work: bars on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

T = TypeVar("T")


class Progress(Protocol):
    """Receives the progress of a fetch; `genrank.models` itself never prints."""

    def start(self, label: str, total_bytes: int | None) -> None:
        """Begin a step, ending the previous one; `total_bytes` is None when the amount of work is unknown."""

    def advance(self, n: int) -> None:
        """Add `n` bytes to the current step."""

    def say(self, text: str) -> None:
        """Tell the user something."""

    def stop(self) -> None:
        """End the last step; called once, after success or failure."""


class Silent:
    """A `Progress` that does nothing."""

    def start(self, label: str, total_bytes: int | None) -> None:
        """Do nothing."""

    def advance(self, n: int) -> None:
        """Do nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""


class ConsoleProgress:
    """A `Progress` for people: a bar on a terminal, plain lines anywhere else (CI, a file).

    Args:
        console: Where to print; None takes stderr.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console as RichConsole

        self._console = console or RichConsole(stderr=True)
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def start(self, label: str, total_bytes: int | None) -> None:
        """Show a step."""
        if not self._console.is_terminal:
            self.say(label)
            return
        if self._bar is None:
            from rich import progress as rich

            columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.DownloadColumn())
            self._bar = rich.Progress(*columns, rich.TimeRemainingColumn(), console=self._console, transient=True)
            self._bar.start()
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(label, total=total_bytes)

    def advance(self, n: int) -> None:
        """Move the bar by `n` bytes."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, n)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Remove the bar and show the cursor again."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence the logs and bars of transformers and sentence-transformers while a model is loaded or saved."""
    from transformers.utils import logging as untyped

    bar_switch: Any = untyped
    levels = {logger: logger.level for logger in map(logging.getLogger, ("transformers", "sentence_transformers"))}
    bars = bar_switch.is_progress_bar_enabled()
    for logger in levels:
        logger.setLevel(logging.ERROR)
    bar_switch.disable_progress_bar()
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
        if bars:
            bar_switch.enable_progress_bar()


def track(items: Iterable[T], words: str, total: int | None = None) -> Iterator[T]:
    """Iterate over items, with a progress bar if stderr is a terminal.

    Args:
        items: What to iterate over.
        words: The bar's label.
        total: Number of items; None when unknown.

    Yields:
        Each item.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar
    except ImportError:  # a missing bar is no reason to fail
        yield from items
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True)) as bar:
        yield from bar.track(items, total=total, description=words)
