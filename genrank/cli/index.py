"""``genrank index``: writes a catalogue into an index, from which searches take their candidates."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from genrank.cli.console import quiet_libraries, say
from genrank.data.jsonl import dump_line, read_listings
from genrank.errors import DataFormatError, InputError
from genrank.files import read_text

if TYPE_CHECKING:
    from genrank.search.dense import Encoder

_AT_ONCE = 1000
_REPORT_EVERY = 10_000


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``genrank index`` to the command line."""
    index = commands.add_parser(
        "index",
        help="index a catalogue",
        description="Write the listings of a catalogue into an index: full text, filters and, with --dense, vectors. "
        "Called again, it writes what is new or changed only, so a run that was stopped goes on where it was.",
    )
    index.add_argument(
        "listings", metavar="LISTINGS.jsonl", nargs="?", help="one listing a line; - reads standard input"
    )
    index.add_argument("--out", metavar="FOLDER", required=True, help="the index; made if it is missing")
    index.add_argument("--dense", action="store_true", help="with vectors, for searches by meaning")
    index.add_argument("--encoder", default="bert-minilm", metavar="MODEL", help="what makes the vectors (%(default)s)")
    index.add_argument("--fields", nargs="+", metavar="FIELD", help="fields whose words are searched (all texts)")
    index.add_argument("--remove", metavar="IDS.txt", help="remove these listings, one id a line")
    index.add_argument("--prune", action="store_true", help="remove the listings that are not in LISTINGS.jsonl")
    index.set_defaults(command=_index)


def _index(arguments: argparse.Namespace) -> int:
    from genrank.search.index import Index

    if arguments.listings is None and arguments.remove is None:
        raise InputError("name a catalogue, or the ids to --remove", field="LISTINGS.jsonl")
    if arguments.prune and arguments.listings is None:
        raise InputError("needs LISTINGS.jsonl, which says what stays", field="--prune")
    folder, started = Path(arguments.out), time.monotonic()
    removed_ids = _read_ids(arguments.remove) if arguments.remove is not None else []
    quiet_libraries()
    encoder = _encoder(arguments.encoder) if arguments.dense else None
    if Index.exists(folder):
        index = Index.open(folder, encoder=encoder)
        if arguments.fields and set(arguments.fields) != set(index.fields):
            index.close()
            found = ", ".join(index.fields)
            raise InputError(f"{folder} is an index of {found}; delete it to choose others", field="--fields")
    elif arguments.listings is None:
        raise InputError(f"no index in {folder}; make one from a catalogue first", field="--out")
    else:
        fields = {"fields": arguments.fields} if arguments.fields else {}
        index = Index.create(folder, encoder=encoder, **fields)
    with index:
        before = len(index)
        read = written = 0
        seen: set[str] = set()
        listings = read_listings(arguments.listings) if arguments.listings is not None else iter(())
        while batch := list(itertools.islice(listings, _AT_ONCE)):
            written += len(index.add(batch))
            read += len(batch)
            if arguments.prune:
                seen.update(listing.listing_id for listing in batch)
            if read % _REPORT_EVERY == 0:
                say(f"{read:,} listings")
        new = len(index) - before
        if arguments.prune:
            removed_ids += [listing.listing_id for listing in index if listing.listing_id not in seen]
        removed = index.remove(removed_ids)
        if written > len(index) // 10:
            index.compact()
        summary = {
            "listings": len(index),
            "new": new,
            "changed": written - new,
            "unchanged": read - written,
            "removed": removed,
            "encoder": index.encoded_by,
            "bytes": sum(file.stat().st_size for file in folder.iterdir()),
            "seconds": round(time.monotonic() - started, 3),
        }
    sys.stdout.write(dump_line(summary))
    return 0


def _encoder(model: str) -> Encoder:
    from genrank.search.dense import Encoder

    return Encoder(model)


def _read_ids(path: str) -> list[str]:
    try:
        return list(_lines(read_text(path)))
    except OSError as error:
        raise DataFormatError(path, 0, "a readable file", error.strerror or str(error)) from None
    except ValueError as error:
        raise DataFormatError(path, 0, "ids, one a line", str(error)) from None


def _lines(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        if stripped := line.strip():
            yield stripped
