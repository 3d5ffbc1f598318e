"""``genrank complete``: suggestions for what a shopper has typed so far."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from genrank.cli.console import quiet_libraries, say
from genrank.data.jsonl import dump_line

if TYPE_CHECKING:
    from genrank.search.completion import Completion


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``genrank complete`` to the command line."""
    complete = commands.add_parser(
        "complete",
        help="suggest queries for a prefix",
        description="Suggest queries that begin with what has been typed, from the catalogue and, with --log, from "
        "what other shoppers searched for. The first call makes the suggestions, beside the index. Prints one JSON "
        "line.",
    )
    complete.add_argument("prefix", metavar="PREFIX", help="what has been typed; a space at the end ends a word")
    complete.add_argument("--index", required=True, metavar="FOLDER", help="what genrank index wrote")
    complete.add_argument(
        "--log", metavar="FOLDER", help="count the queries of this log first (genrank.search.feedback)"
    )
    complete.add_argument("--update", action="store_true", help="read the catalogue again first")
    complete.add_argument("-n", type=int, default=8, metavar="N", help="how many suggestions (%(default)s)")
    complete.set_defaults(command=_complete)


def _complete(arguments: argparse.Namespace) -> int:
    quiet_libraries()
    with _opened(arguments) as completion:
        found = completion.complete(arguments.prefix, arguments.n)
        line = {"prefix": arguments.prefix, "suggestions": [one.to_dict() for one in found]}
    sys.stdout.write(dump_line(line))
    return 0


def _opened(arguments: argparse.Namespace) -> Completion:
    """The suggestions, made or renewed as the call wants it."""
    from genrank.search.completion import Completion
    from genrank.search.index import Index

    log = None
    if arguments.log:
        from genrank.search.feedback.log import FeedbackLog

        log = FeedbackLog(arguments.log)
    if not Completion.exists(arguments.index):
        with Index.open(arguments.index) as index:
            completion = Completion.of(index, log)
    else:
        completion = Completion.open(arguments.index)
        if arguments.update:
            with Index.open(arguments.index) as index:
                completion.update(log, index)
        elif log is not None:
            completion.update(log)
        else:
            return completion
    say(f"{len(completion):,} texts can be suggested")
    return completion
