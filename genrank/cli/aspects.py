"""``genrank aspects``: what the reviews of a catalogue say, by aspect, written into its listings."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from genrank.cli.console import quiet_libraries, say
from genrank.data.jsonl import dump_line, read_listings
from genrank.errors import DataFormatError, InputError
from genrank.models.registry import DEFAULT_MODEL


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``genrank aspects`` to the command line."""
    aspects = commands.add_parser(
        "aspects",
        help="what reviews say, by aspect",
        description="Read the reviews of a catalogue, and write its listings again with their aspects: what is praised "
        "and what is blamed, with counts and a quote. Prompts show them as the field aspects, BERT + GBDT has them as "
        "features.",
    )
    aspects.add_argument("listings", metavar="LISTINGS.jsonl", help="one listing a line; - reads standard input")
    aspects.add_argument("--out", metavar="FILE", required=True, help="the enriched catalogue")
    aspects.add_argument("--resume", action="store_true", help="go on where the file ends")
    aspects.add_argument("--literal", action="store_true", help="word lists instead of a model")
    aspects.add_argument("--ask", action="store_true", help="ask the model for aspects that no word tells")
    aspects.add_argument("--model", help=f"known name, local folder or hub name ({DEFAULT_MODEL})")
    aspects.add_argument("--adapter", help="folder or hub name of a LoRA adapter")
    aspects.add_argument("--engine", default="transformers", metavar="E", help="as for genrank rerank (%(default)s)")
    aspects.add_argument("--prompt", metavar="P", default="aspects", help="a prompt for aspects, or a .toml file")
    aspects.add_argument("--batch", type=int, default=16, metavar="N", help="listings read at once (%(default)s)")
    aspects.set_defaults(command=_aspects)


def _aspects(arguments: argparse.Namespace) -> int:
    from genrank.words.aspects import AspectReader

    if arguments.batch < 1:
        raise InputError(f"must be at least 1, got {arguments.batch}", field="--batch")
    path = Path(arguments.out)
    if arguments.listings != "-" and path.exists() and path.samefile(arguments.listings):
        raise InputError("is also the input; name another file", field="--out")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}; make it first", field="--out")
    listings = read_listings(arguments.listings)
    done, size = _done(path) if arguments.resume and path.exists() else (0, 0)
    for number, known in enumerate(_written(path, done), start=1):
        listing = next(listings, None)
        if listing is None or listing.listing_id != known:
            found = repr(listing.listing_id) if listing else "the end of the file"
            raise DataFormatError(
                arguments.listings, number, f"{known!r}, as in {path}; without --resume it is written anew", found
            )
    engine = None
    if not arguments.literal:
        from genrank.reranker import Reranker

        quiet_libraries()
        engine = Reranker(arguments.model, adapter=arguments.adapter, engine=arguments.engine).engine
    reader = AspectReader(engine, ask=arguments.ask, prompt=arguments.prompt)
    counts = Counter({"listings": done, "resumed": done, "with_aspects": 0, "opinions": 0, "literal": 0})
    why = ""
    with path.open("a" if done else "w", encoding="utf-8", newline="\n") as out:
        out.truncate(size)
        while batch := list(itertools.islice(listings, arguments.batch)):
            for listing, reading in zip(batch, reader.read(batch), strict=True):
                out.write(dump_line(dataclasses.replace(listing, aspects=reading.aspects).to_dict()))
                counts["listings"] += 1
                counts["with_aspects"] += bool(reading.aspects)
                counts["opinions"] += sum(one.polarity != "none" for one in reading.opinions)
                counts["literal"] += reading.source == "literal"
                why = reading.why or why
            out.flush()
            if counts["listings"] % 1000 < len(batch):
                say(f"{counts['listings']:,} listings")
    if why:
        say(f"word lists stood in for the model: {why}")
    sys.stdout.write(dump_line(counts))
    return 0


def _done(path: Path) -> tuple[int, int]:
    """How many whole lines a file has, and how many bytes they are; a run that broke off may have left half a line."""
    lines = size = 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                lines, size = lines + 1, size + len(line)
    return lines, size


def _written(path: Path, lines: int) -> Iterator[str]:
    """The ids of the listings in the first lines of a file."""
    if not lines:
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(itertools.islice(file, lines), start=1):
            try:
                yield str(json.loads(line)["listing_id"])
            except (ValueError, KeyError, TypeError):
                raise DataFormatError(str(path), number, "a listing that genrank aspects wrote", line[:60]) from None
