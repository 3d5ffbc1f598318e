"""``genrank words``: a summary and a title variant of each listing, for one search."""

from __future__ import annotations

import argparse
import itertools
import sys

from genrank.cli.console import quiet_libraries, say
from genrank.data.jsonl import dump_line, read_listings
from genrank.errors import InputError
from genrank.models.registry import DEFAULT_MODEL


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``genrank words`` to the command line."""
    words = commands.add_parser(
        "words",
        help="write summaries and titles",
        description="Write a summary and a title variant of each listing of a JSON Lines file, for one search. They "
        "say only what the listing's fields and reviews say; what was cut, and why, is in the output.",
    )
    words.add_argument("listings", metavar="LISTINGS.jsonl", help="one listing a line; - reads standard input")
    words.add_argument("--query", metavar="Q", help="what the shopper typed (nothing)")
    words.add_argument("--only", choices=("summary", "title"), help="one of the two (both)")
    words.add_argument("--max-chars", type=int, default=60, metavar="N", help="of a title variant (%(default)s)")
    words.add_argument("--model", help=f"known name, local folder or hub name ({DEFAULT_MODEL})")
    words.add_argument("--adapter", help="folder or hub name of a LoRA adapter")
    words.add_argument("--engine", default="transformers", metavar="E", help="as for genrank rerank (%(default)s)")
    words.add_argument("--batch", type=int, default=8, metavar="N", help="listings written at once (%(default)s)")
    words.add_argument("--deadline", type=float, metavar="SECONDS", help="for each batch; late ones get plain words")
    words.set_defaults(command=_words)


def _words(arguments: argparse.Namespace) -> int:
    from genrank.reranker import Reranker
    from genrank.words.writer import Words

    for option, least in (("batch", 1), ("max_chars", 1)):
        if getattr(arguments, option) < least:
            raise InputError(f"must be at least {least}", field=f"--{option.replace('_', '-')}")
    listings = read_listings(arguments.listings)
    quiet_libraries()
    words = Words(Reranker(arguments.model, adapter=arguments.adapter, engine=arguments.engine).engine)
    counts = {"kept": 0, "cut": 0, "fallback": 0}
    while batch := list(itertools.islice(listings, arguments.batch)):
        found = []
        if arguments.only != "title":
            found.append(words.summaries(batch, arguments.query, deadline=arguments.deadline))
        if arguments.only != "summary":
            found.append(
                words.titles(batch, arguments.query, max_chars=arguments.max_chars, deadline=arguments.deadline)
            )
        for texts in zip(*found, strict=True):
            for text in texts:
                counts[text.fate] += 1
                sys.stdout.write(dump_line(text.to_dict()))
        sys.stdout.flush()
    say(", ".join(f"{count} {fate}" for fate, count in counts.items()))
    return 0
