"""``genrank rerank``: request lines in, rankings out."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, get_args

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from genrank.cli.console import quiet_libraries
from genrank.data.jsonl import dump_line, read_requests
from genrank.errors import DataFormatError, InputError
from genrank.types import Decoding, Strategy

_ERRORS_SHOWN = 20


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``genrank rerank`` to the command line."""
    rerank = commands.add_parser(
        "rerank",
        help="rank request lines",
        description="Rank the requests of a JSON Lines file. Lines that are wrong are reported and counted, the "
        "others are ranked; the exit status is 1 when any was wrong.",
    )
    rerank.add_argument("requests", metavar="REQUESTS.jsonl", help="request lines; - reads standard input")
    rerank.add_argument("-o", "--output", metavar="OUT", help="write ranking lines to this file instead of stdout")
    rerank.add_argument(
        "--format",
        choices=("auto", "json", "table"),
        default="auto",
        help="table by default on a terminal, json elsewhere",
    )
    rerank.add_argument("--model", default="smollm2-135m", help="known name, local folder or hub name (%(default)s)")
    rerank.add_argument("--adapter", help="folder or hub name of a LoRA adapter")
    rerank.add_argument("--engine", choices=("transformers", "vllm"), default="transformers")
    rerank.add_argument("--prompt", metavar="P", help="name of a prompt template, or a .toml file")
    rerank.add_argument("--decoding", choices=get_args(Decoding), default="inline")
    rerank.add_argument("--strategy", choices=get_args(Strategy), default="sliding")
    rerank.add_argument("--window", type=int, metavar="N", help="candidates in a window (20)")
    rerank.add_argument("--stride", type=int, metavar="N", help="candidates a window moves by (half a window)")
    rerank.add_argument(
        "--passes", type=int, metavar="N", help="passes over differently ordered candidates (2; listwise: 1)"
    )
    rerank.add_argument("--calibration", metavar="FILE", help="makes scores probabilities (the adapter's own)")
    rerank.add_argument("--reasons", type=int, default=0, metavar="K", help="reasons for the first K items (none)")
    rerank.add_argument("--top-k", type=int, metavar="K", help="return only the first K items")
    rerank.add_argument("--deadline", type=float, metavar="SECONDS", help="for each batch; then the rest falls back")
    rerank.add_argument("--max-prompt-tokens", type=int, metavar="N", help="token budget of one prompt")
    rerank.add_argument("--batch", type=int, default=8, metavar="N", help="requests ranked at once (%(default)s)")
    rerank.add_argument("--seed", type=int, default=0, metavar="N", help="of the shuffles (0)")
    rerank.set_defaults(command=_rerank)


def _rerank(arguments: argparse.Namespace) -> int:
    from genrank.cli.streaming import Summary, rerank_lines
    from genrank.reranker import Reranker

    if arguments.batch < 1:
        raise InputError(f"must be at least 1, got {arguments.batch}", field="--batch")
    if arguments.output and arguments.requests != "-" and _same_file(arguments.output, arguments.requests):
        raise InputError("is also the input; name another file", field="--output")
    lines = read_requests(arguments.requests)
    first = next(lines)  # a missing or empty file is reported before a model is loaded
    errors = Console(stderr=True)
    quiet_libraries()
    reranker = Reranker(
        arguments.model,
        adapter=arguments.adapter,
        engine=arguments.engine,
        prompt=arguments.prompt,
        decoding=arguments.decoding,
        strategy=arguments.strategy,
        window=arguments.window,
        stride=arguments.stride,
        passes=arguments.passes,
        seed=arguments.seed,
        max_prompt_tokens=arguments.max_prompt_tokens,
        calibration=arguments.calibration,
    )
    reranker.check_options(top_k=arguments.top_k, reasons=arguments.reasons, deadline=arguments.deadline)
    summary = Summary()

    def report(error: DataFormatError) -> None:
        if summary.wrong <= _ERRORS_SHOWN:
            errors.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        elif summary.wrong == _ERRORS_SHOWN + 1:
            errors.print("further wrong lines are only counted", highlight=False)

    as_table = arguments.format == "table" or (
        arguments.format == "auto" and not arguments.output and sys.stdout.isatty()
    )
    progress = Progress(
        SpinnerColumn(), TextColumn("reranking"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=errors, transient=True, disable=not errors.is_terminal,
    )  # fmt: skip
    try:
        with _output(arguments.output) as out, progress:
            task = progress.add_task("", total=None)
            for request, ranking in rerank_lines(
                reranker,
                "<stdin>" if arguments.requests == "-" else arguments.requests,
                itertools.chain([first], lines),
                summary,
                report=report,
                batch=arguments.batch,
                top_k=arguments.top_k,
                reasons=arguments.reasons,
                deadline=arguments.deadline,
            ):
                progress.advance(task)
                if as_table:
                    from genrank.cli.display import ranking_table

                    Console(file=out).print(ranking_table(request, ranking))
                else:
                    out.write(dump_line(ranking.to_dict()))
                    out.flush()
    finally:
        errors.print(str(summary), highlight=False)
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
            raise InputError(f"cannot write {path}: {error.strerror}", field="--output") from None
        yield out


def _same_file(one: str, other: str) -> bool:
    try:
        return Path(one).samefile(other)
    except OSError:
        return False
