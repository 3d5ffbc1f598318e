"""What every program of this folder does in the same way: exit statuses, error lines, progress bars.

JSON and tables go to stdout; words and progress bars go to stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from genrank.errors import ConfigError, GenrankError, InputError


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
