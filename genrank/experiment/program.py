"""Exit statuses and error lines, shared by the command line and the programs of a clone.

JSON and tables go to stdout; words and progress bars go to stderr.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable

from genrank.errors import ConfigError, GenrankError, InputError


def exit_status(body: Callable[[], None]) -> int:
    """Run a program's body and turn what it raises into one line on stderr.

    Returns:
        0 for success, 2 for a wrong call (`InputError`, `ConfigError`), 1 for a failed run (every other
        `GenrankError`, and files that cannot be read or written), 130 for an interrupt.
    """
    # transformers' bars show files and weights, not what a program does
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        body()
        flush_output()
    except (InputError, ConfigError) as error:
        return _fail(str(error), 2)
    except GenrankError as error:
        return _fail(str(error), 1)
    except OSError as error:  # a full disk, say
        drop_output()
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    return 0


def flush_output() -> None:
    """Flush stdout, so that a full disk is reported here and not when Python exits.

    Raises:
        OSError: When it cannot be written.
    """
    if sys.stdout is not None:
        sys.stdout.flush()


def drop_output() -> None:
    """Discard the rest of stdout if it cannot be written; Python would otherwise fail on it at exit."""
    try:
        flush_output()
    except OSError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, status: int) -> int:
    say(f"error: {' '.join(message.split())}")
    return status


def say(words: str) -> None:
    """Write one line of words to stderr, if it is open."""
    if sys.stderr is not None:
        print(words, file=sys.stderr)
