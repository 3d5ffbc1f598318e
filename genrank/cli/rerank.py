"""``genrank rerank``: request lines in, rankings out."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal, get_args

from genrank.cli.console import print_table, quiet_libraries, say
from genrank.data.jsonl import dump_line, read_requests
from genrank.errors import DataFormatError, InputError
from genrank.models.registry import DEFAULT_MODEL
from genrank.progress import track
from genrank.types import Combine, Decoding, Dtype, Strategy

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
    rerank.add_argument(
        "--model", help=f"known name, local folder or hub name ({DEFAULT_MODEL}); a server's only model"
    )
    rerank.add_argument("--adapter", help="folder or hub name of a LoRA adapter")
    rerank.add_argument(
        "--dtype", choices=get_args(Dtype), default="auto", help="number format of the weights (%(default)s)"
    )
    rerank.add_argument(
        "--trust-remote-code", action="store_true", help="run code that lies in the model's folder; read it first"
    )
    rerank.add_argument(
        "--engine",
        default="transformers",
        metavar="E",
        help="transformers, vllm, or a server's address, such as http://127.0.0.1:8000/v1, whose key, if it wants one, "
        "is in the environment variable GENRANK_API_KEY (%(default)s)",
    )
    rerank.add_argument("--prompt", metavar="P", help="name of a prompt template, or a .toml file")
    rerank.add_argument(
        "--decoding",
        choices=get_args(Decoding),
        help="how it ranks (what suits the adapter and the prompt, first of all pointwise)",
    )
    rerank.add_argument(
        "--strategy", choices=get_args(Strategy), help="how a long list is split (pointwise: each; else sliding)"
    )
    rerank.add_argument("--window", type=int, metavar="N", help="candidates in a window; not for pointwise (20)")
    rerank.add_argument("--stride", type=int, metavar="N", help="candidates a window moves by (half a window)")
    rerank.add_argument(
        "--passes",
        type=int,
        metavar="N",
        help="passes over differently ordered candidates (pointwise, listwise: 1; else 2)",
    )
    rerank.add_argument("--calibration", metavar="FILE", help="turns scores into probabilities (the adapter's own)")
    rerank.add_argument(
        "--blend",
        metavar="WEIGHT",
        type=_blend,
        help="weight of the model beside the first stage's scores, 0 to 1, or off (the adapter's own)",
    )
    rerank.add_argument("--reasons", type=int, default=0, metavar="K", help="reasons for the first K items (none)")
    rerank.add_argument("--top-k", type=int, metavar="K", help="return only the first K items")
    rerank.add_argument("--deadline", type=float, metavar="SECONDS", help="for each batch; late candidates fall back")
    rerank.add_argument(
        "--fallback",
        metavar="FOLDER",
        help="trained BERT + GBDT that orders what the model did not (the order of the candidates)",
    )
    rerank.add_argument(
        "--then", choices=get_args(Decoding), help="rank the first items again with this decoding (one stage)"
    )
    rerank.add_argument("--then-top", type=int, default=10, metavar="N", help="how many of them (%(default)s)")
    rerank.add_argument(
        "--then-scores", choices=get_args(Combine), default="replace", help="what becomes of their scores (%(default)s)"
    )
    rerank.add_argument("--max-prompt-tokens", type=int, metavar="N", help="token budget of one prompt")
    rerank.add_argument("--batch", type=int, metavar="N", help="requests ranked at once (1 for a table, else 8)")
    rerank.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the shuffles (0)")
    rerank.add_argument("--snapshot", metavar="FILE", help="listings that genrank warm read beforehand (none)")
    rerank.set_defaults(command=_rerank)


def _rerank(arguments: argparse.Namespace) -> int:
    from genrank.cascade import Cascade
    from genrank.cli.display import ranking_table
    from genrank.cli.streaming import Summary, rerank_lines
    from genrank.reranker import Reranker

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
    fallback = None
    if arguments.fallback:
        from genrank.rankers.gbdt import load_fallback

        fallback = load_fallback(arguments.fallback)
    reranker = Reranker(
        arguments.model,
        adapter=arguments.adapter,
        dtype=arguments.dtype,
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
        blend=arguments.blend,
        fallback=fallback,
        trust_remote_code=arguments.trust_remote_code,
    )
    if arguments.snapshot:
        say(f"{reranker.open_snapshot(arguments.snapshot):,} listings in {arguments.snapshot}")
    ranker: Reranker | Cascade = reranker
    if arguments.then:
        second = Reranker(engine=reranker.engine, decoding=arguments.then, seed=arguments.seed, blend=False)
        ranker = Cascade(reranker, second, top=arguments.then_top, scores=arguments.then_scores)
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


def _blend(text: str) -> float | Literal[False]:
    """The value of ``--blend``; `Reranker` checks the number."""
    if text == "off":
        return False
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number within 0..1, or off, got {text!r}") from None


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
