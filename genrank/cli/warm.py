"""``genrank warm``: reads a catalogue's listings beforehand, into a snapshot."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import get_args

from genrank.cli.console import quiet_libraries, say
from genrank.data.jsonl import dump_line, read_listings
from genrank.errors import InputError
from genrank.models.registry import DEFAULT_MODEL
from genrank.types import Dtype


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``genrank warm`` to the command line."""
    warm = commands.add_parser(
        "warm",
        help="read listings beforehand",
        description="Read the listings of a catalogue, and keep what the model made of them in a snapshot, so that a "
        "query costs only its own tokens (decoding pointwise, a prompt that begins with the listing). Called again, "
        "it reads what is new or changed, and drops what is gone. Use the file with: genrank rerank --snapshot FILE.",
    )
    warm.add_argument("listings", metavar="LISTINGS.jsonl", help="one listing a line; - reads standard input")
    warm.add_argument("--snapshot", metavar="FILE", required=True, help="the file, beside the catalogue")
    warm.add_argument("--model", default=DEFAULT_MODEL, help="known name, local folder or hub name (%(default)s)")
    warm.add_argument("--adapter", help="folder or hub name of a LoRA adapter")
    warm.add_argument(
        "--dtype", choices=get_args(Dtype), default="auto", help="number format of the weights (%(default)s)"
    )
    warm.add_argument(
        "--trust-remote-code", action="store_true", help="run code that lies in the model's folder; read it first"
    )
    warm.add_argument("--prompt", metavar="P", help="name of a prompt template, or a .toml file")
    warm.add_argument("--max-prompt-tokens", type=int, metavar="N", help="token budget of one prompt")
    warm.add_argument("--deadline", type=float, metavar="SECONDS", help="stop after this time; what was read is kept")
    warm.set_defaults(command=_warm)


def _warm(arguments: argparse.Namespace) -> int:
    from genrank.reranker import Reranker

    folder = Path(arguments.snapshot).parent
    if not folder.is_dir():
        raise InputError(
            f"cannot write {arguments.snapshot}: there is no folder {folder}; make it first", field="--snapshot"
        )
    listings = list(read_listings(arguments.listings))
    quiet_libraries()
    reranker = Reranker(
        arguments.model,
        adapter=arguments.adapter,
        dtype=arguments.dtype,
        prompt=arguments.prompt,
        decoding="pointwise",
        max_prompt_tokens=arguments.max_prompt_tokens,
        trust_remote_code=arguments.trust_remote_code,
    )
    done = 0

    def report(finished: int) -> None:
        nonlocal done
        before, done = done, done + finished
        if done * 20 // len(listings) > before * 20 // len(listings):
            say(f"{done:,} of {len(listings):,} listings")

    warmed = reranker.warm(listings, snapshot=arguments.snapshot, deadline=arguments.deadline, report=report)
    sys.stdout.write(dump_line(dataclasses.asdict(warmed)))
    return 1 if warmed.left else 0
