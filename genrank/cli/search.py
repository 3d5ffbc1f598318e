"""``genrank search``: one search through the whole path, over an index that ``genrank index`` wrote."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

from genrank.cli.console import Cell, Table, print_table, quiet_libraries, say
from genrank.data.jsonl import dump_line
from genrank.errors import InputError
from genrank.models.registry import DEFAULT_MODEL
from genrank.types import Candidate, Decoding, Request

if TYPE_CHECKING:
    from genrank.search.pipeline import Stage


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``genrank search`` to the command line."""
    search = commands.add_parser(
        "search",
        help="search an index, and rerank what it finds",
        description="Understand a query, find candidates in an index, rank them, vary the result and apply rules; each "
        "stage says how long it took. Prints one JSON line, or a table on a terminal.",
    )
    search.add_argument("query", metavar="QUERY", help="what the shopper typed")
    search.add_argument("--index", required=True, metavar="FOLDER", help="what genrank index wrote")
    search.add_argument("--dense", action="store_true", help="search by meaning too; the index needs vectors")
    search.add_argument("--encoder", default="bert-minilm", metavar="MODEL", help="what made the vectors (%(default)s)")
    search.add_argument("--understand", action="store_true", help="read what the query means, with the same model")
    search.add_argument("--shoppers", metavar="FILE", help="what shoppers did (genrank.search.shoppers)")
    search.add_argument("--user", metavar="ID", help="who searches; needs --shoppers or --log")
    search.add_argument("--candidates", type=int, default=20, metavar="N", help="found and ranked (%(default)s)")
    search.add_argument("--no-rank", action="store_true", help="keep the order of the candidates, without a model")
    search.add_argument("--model", help=f"known name, local folder or hub name ({DEFAULT_MODEL})")
    search.add_argument("--adapter", help="folder or hub name of a LoRA adapter")
    search.add_argument("--engine", default="transformers", metavar="E", help="as of genrank rerank (%(default)s)")
    search.add_argument("--decoding", choices=get_args(Decoding), help="as of genrank rerank")
    search.add_argument("--prompt", metavar="P", help="name of a prompt template, or a .toml file")
    search.add_argument("--snapshot", metavar="FILE", help="listings that genrank warm read beforehand (none)")
    search.add_argument("--variety", type=float, default=0.0, metavar="V", help="0 to 1 (%(default)g)")
    search.add_argument("--rules", metavar="FILE", help="business rules, .toml or .json (none)")
    search.add_argument("--estimates", metavar="FILE", help="click estimates (genrank.search.feedback.estimates)")
    search.add_argument("--weight", type=float, metavar="W", help="of the model beside the estimates, 0 to 1")
    search.add_argument("--reasons", type=int, default=0, metavar="K", help="reasons for the first K items (none)")
    search.add_argument("--top-k", type=int, default=10, metavar="K", help="how many items to return (%(default)s)")
    search.add_argument("--deadline", type=float, metavar="SECONDS", help="for the whole search")
    search.add_argument("--log", metavar="FOLDER", help="log what is shown (genrank.search.feedback)")
    search.add_argument(
        "--format", choices=("auto", "json", "table"), default="auto", help="table on a terminal, json elsewhere"
    )
    search.set_defaults(command=_search)


def _search(arguments: argparse.Namespace) -> int:
    from genrank.reranker import Reranker
    from genrank.search.parts import Parts

    if arguments.user and not (arguments.shoppers or arguments.log):
        raise InputError("needs --shoppers, which knows the user, or --log", field="--user")
    if arguments.understand and arguments.no_rank:
        raise InputError("needs the model that --no-rank leaves out", field="--understand")
    quiet_libraries()
    with Parts.open(
        arguments.index,
        encoder=arguments.encoder if arguments.dense else None,
        shoppers=arguments.shoppers,
        rules=arguments.rules,
        log=arguments.log,
        estimates=arguments.estimates,
    ) as parts:
        reranker = None
        if not arguments.no_rank:
            reranker = Reranker(
                arguments.model,
                adapter=arguments.adapter,
                engine=arguments.engine,
                decoding=arguments.decoding,
                prompt=arguments.prompt,
            )
            if arguments.snapshot:
                say(f"{reranker.open_snapshot(arguments.snapshot):,} listings in {arguments.snapshot}")
        pipeline = parts.pipeline(
            reranker,
            understand=parts.understanding(reranker.engine) if arguments.understand and reranker else None,
            variety=arguments.variety,
            candidates=arguments.candidates,
            weight=arguments.weight,
        )
        result = pipeline.search(
            arguments.query,
            user_id=arguments.user,
            top_k=arguments.top_k,
            reasons=arguments.reasons,
            deadline=arguments.deadline,
        )
    if arguments.format == "table" or (arguments.format == "auto" and sys.stdout is not None and sys.stdout.isatty()):
        if result.ranking.items:
            from genrank.cli.display import ranking_table

            request = Request(result.query, tuple(Candidate(item.listing) for item in result.ranking))
            print_table(ranking_table(request, result.ranking), sys.stdout)
        else:
            say("nothing was found")
        print_table(_stage_table(result.stages), sys.stdout)
    else:
        sys.stdout.write(dump_line(result.to_dict()))
    return 0


def _stage_table(stages: Sequence[Stage]) -> Table:
    """How long each stage took, and what it has to say."""
    rows = [[Cell(one.name), Cell(f"{one.seconds * 1e3:,.0f}"), Cell(one.note)] for one in stages]
    with_notes = any(one.note for one in stages)
    return Table(
        columns=("stage", "ms", "note") if with_notes else ("stage", "ms"),
        rows=rows if with_notes else [row[:2] for row in rows],
        numbers=frozenset({"ms"}),
        whole=frozenset({"stage", "ms"}),
    )
