"""What every program of this folder does in the same way: exit statuses, error lines, progress bars.

JSON and tables go to stdout; words and progress bars go to stderr.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from genrank.errors import ConfigError, GenrankError, InputError

T = TypeVar("T")


def exit_status(body: Callable[[], None]) -> int:
    """Run a program's body and turn what it raises into one line on stderr.

    Returns:
        0 when it went well, 2 for a wrong call (`InputError`, `ConfigError`), 1 for a failed run (every other
        `GenrankError`, and files that cannot be read or written), 130 when it was interrupted.
    """
    # transformers' bars are of files and weights, not of what a program does
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        body()
    except (InputError, ConfigError) as error:
        return _fail(str(error), 2)
    except (GenrankError, OSError) as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    return 0


def _fail(message: str, status: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status


def say(words: str) -> None:
    """Write one line of words to stderr."""
    print(words, file=sys.stderr)


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep back what transformers and sentence-transformers say and draw while a model is loaded or saved."""
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
    """Pass items on, with a progress bar on stderr where that is a terminal.

    Args:
        items: What to go through.
        words: What is going on.
        total: Number of items; None when unknown.

    Yields:
        Each item.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield from progress.track(items, total=total, description=words)
