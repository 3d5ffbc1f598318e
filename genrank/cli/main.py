"""The command line, ``genrank ...``: parsing and printing, no logic.

JSON goes to stdout; words, progress and errors go to stderr. Exit status: 0 all went well, 1 something failed,
2 the call was wrong, 130 it was interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version

from genrank.cli import (
    adapters,
    aspects,
    batch,
    complete,
    doctor,
    index,
    mcp,
    models,
    prompts,
    rerank,
    search,
    serve,
    vllm,
    warm,
    words,
)
from genrank.cli.console import say
from genrank.errors import ConfigError, GenrankError, InputError
from genrank.experiment.program import drop_output, flush_output


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; by default those of the process.

    Returns:
        The exit status.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a title may hold characters that the terminal's encoding lacks
            stream.reconfigure(encoding="utf-8", errors="replace")
    arguments = parse(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        status = command(arguments)
        flush_output()
    except (InputError, ConfigError) as error:
        return _fail(error, 2)
    except GenrankError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # the program that read our output has ended
        drop_output()
        return 1
    except OSError as error:  # a full disk, say
        drop_output()
        return _fail(error, 1)
    return status


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line; what a command passes on to another program is in ``unknown``."""
    parser = _parser()
    arguments, unknown = parser.parse_known_args(argv)
    if unknown and not getattr(arguments, "passes_on", False):
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    arguments.unknown = unknown
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("genrank", description="Re-order a shop's search results with a language model.")
    parser.add_argument("--version", action="version", version=f"genrank {version('genrank')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    for command in (
        rerank,
        batch,
        serve,
        mcp,
        vllm,
        warm,
        index,
        search,
        aspects,
        words,
        complete,
        models,
        adapters,
        prompts,
        doctor,
    ):
        command.add_parser(commands)
    return parser


def _fail(error: object, status: int) -> int:
    say(f"genrank: {error}")
    return status
