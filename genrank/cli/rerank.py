"""``genrank rerank``: request lines in, rankings out."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from genrank.cli.console import print_table, quiet_libraries, say
from genrank.cli.ranker import add_ranker_options, settings_of
from genrank.data.jsonl import dump_line, read_requests
from genrank.errors import DataFormatError, InputError
from genrank.progress import track

_ERRORS_SHOWN = 20


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``genrank rerank`` to the command line."""
    rerank = commands.add_parser(
        "rerank",
        help="rank request lines",
        description="Rank the requests of a JSON Lines file. Wrong lines are reported and counted, the others are "
        "ranked; the exit status is 1 when a line was wrong. The answer to a request without query_id holds the "
        "request's line number, 1-based.",
    )
    rerank.add_argument("requests", metavar="REQUESTS.jsonl", help="request lines; - reads standard input")
    rerank.add_argument("-o", "--output", metavar="OUT", help="file of the ranking lines; - is stdout, the default")
    rerank.add_argument(
        "--format",
        choices=("auto", "json", "table"),
        default="auto",
        help="table by default on a terminal, json elsewhere",
    )
    add_ranker_options(rerank)
    rerank.add_argument("--batch", type=int, metavar="N", help="requests ranked at once (1 for a table, else 8)")
    rerank.set_defaults(command=_rerank)


def _rerank(arguments: argparse.Namespace) -> int:
    from genrank.cascade import Cascade
    from genrank.cli.display import ranking_table
    from genrank.cli.streaming import Summary, rerank_lines

    if arguments.batch is not None and arguments.batch < 1:
        raise InputError(f"must be at least 1, got {arguments.batch}", field="--batch")
    if arguments.output == "-":
        arguments.output = None
    if arguments.output:
        _check_output(arguments.output, arguments.requests)
    elif sys.stdout is None:
        raise InputError("standard output is closed; name a file", field="--output")
    lines = read_requests(arguments.requests)
    first = next(lines)  # a missing or empty file is reported before a model is loaded
    quiet_libraries()
    settings = settings_of(arguments)
    ranker = dataclasses.replace(settings, snapshot=None).make()
    if settings.snapshot:
        first_stage = ranker.first if isinstance(ranker, Cascade) else ranker
        say(f"{first_stage.open_snapshot(settings.snapshot):,} listings in {settings.snapshot}")
    ranker.check_options(top_k=arguments.top_k, reasons=arguments.reasons, deadline=arguments.deadline)
    summary = Summary()

    def report(error: DataFormatError) -> None:
        if summary.wrong <= _ERRORS_SHOWN:
            say(f"error: {error}")
        elif summary.wrong == _ERRORS_SHOWN + 1:
            say("further wrong lines are only counted")

    as_table = arguments.format == "table" or (
        arguments.format == "auto" and not arguments.output and sys.stdout.isatty()
    )
    try:
        with _output(arguments.output) as out:
            answers = rerank_lines(
                ranker,
                "<stdin>" if arguments.requests == "-" else arguments.requests,
                itertools.chain([first], lines),
                summary,
                report=report,
                batch=arguments.batch or (1 if as_table else 8),
                top_k=arguments.top_k,
                reasons=arguments.reasons,
                deadline=arguments.deadline,
            )
            for number, request, ranking in answers if as_table else track(answers, "reranking"):
                line = None if ranking.query_id else number
                if as_table:
                    print_table(ranking_table(request, ranking, line), out)
                else:
                    out.write(dump_line(({} if line is None else {"line": line}) | ranking.to_dict()))
                    out.flush()
    finally:
        say(str(summary))
    return 1 if summary.wrong else 0


@contextlib.contextmanager
def _output(path: str | None) -> Iterator[IO[str]]:
    if path is None:
        yield sys.stdout
        return
    with contextlib.ExitStack() as stack:
        try:
            out = stack.enter_context(Path(path).open("w", encoding="utf-8", newline="\n"))
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror or error}", field="--output") from None
        yield out


def _check_output(output: str, requests: str) -> None:
    """Check the output file before a model is loaded."""
    path = Path(output)
    if requests != "-" and _same_file(output, requests):
        raise InputError("is also the input; name another file", field="--output")
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder; name a file", field="--output")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}; make it first", field="--output")


def _same_file(one: str, other: str) -> bool:
    try:
        return Path(one).samefile(other)
    except OSError:
        return False
