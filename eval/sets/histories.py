"""Shared by the sets with a shopper's history: JSON Lines, a history that ends before its query, negatives."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import io
import zlib
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, TypeVar

import pydantic

from genrank.data.dataset import DatasetQuery
from genrank.data.jsonl import read_jsonl
from genrank.errors import DataFormatError, first_problem
from genrank.experiment.splits import digest
from genrank.types import Interaction

M = TypeVar("M", bound=pydantic.BaseModel)

Stars = Annotated[float, pydantic.Field(ge=0, le=5)]
Milliseconds = Annotated[int, pydantic.Field(ge=0, lt=253402300800000)]
"""Since 1970 in UTC, before the year 10000."""

NEGATIVES = 19


def read_records(path: Path, model: type[M]) -> Iterator[tuple[int, M]]:
    """Read JSON Lines, each an object with the fields of `model`; ``.gz`` is unpacked on the way.

    Args:
        path: The file.
        model: The fields that a line must have, with their types; others are ignored.

    Yields:
        The line, 1-based, and its record.

    Raises:
        DataFormatError: When the file cannot be read, is empty, or a line is not such an object.
    """
    name = str(path)
    with contextlib.ExitStack() as stack:
        try:
            plain = packed = stack.enter_context(path.open("rb"))
            if path.suffix == ".gz":
                plain = stack.enter_context(io.BufferedReader(gzip.GzipFile(fileobj=packed)))
            for line, fields in read_jsonl(path, plain):
                if isinstance(fields, DataFormatError):
                    raise fields
                try:
                    record = model.model_validate(fields)
                except pydantic.ValidationError as error:
                    where, message = first_problem(error.errors(include_url=False))
                    expected = f"an object with {', '.join(model.model_fields)}"
                    raise DataFormatError(name, line, expected, f"{where or 'the line'}: {message}") from None
                yield line, record
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataFormatError(name, 0, "a gzip file", str(error)) from None
        except OSError as error:
            raise DataFormatError(name, 0, "a readable file", error.strerror or str(error)) from None


def moment(milliseconds: int) -> datetime:
    """A time given as milliseconds since 1970, in UTC."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)


def before(time: datetime, events: Iterable[Interaction], notes: Counter[str]) -> tuple[Interaction, ...]:
    """The history that a query of this time may use: what came strictly before it, oldest first, each event once.

    Args:
        time: When the query was asked.
        events: What the shopper did, in any order; one without a time is not known to be before the query.
        notes: Counts what is left out.
    """
    kept: dict[tuple[datetime, str, str], Interaction] = {}
    for event in events:
        if event.time is None or event.time >= time:
            notes["interactions_not_before_the_query"] += 1
            continue
        key = (event.time, event.event, event.listing.listing_id)
        notes["repeated_interactions"] += key in kept
        kept.setdefault(key, event)
    return tuple(sorted(kept.values(), key=lambda event: event.time or time))


def negatives(query_id: str, pools: Iterable[Sequence[str]], own: Container[str], seed: int) -> list[str]:
    """`NEGATIVES` listings that a shopper had nothing to do with, drawn by a hash of seed and query id.

    Args:
        query_id: The query.
        pools: Listing ids to draw from: all that the first has, before any of the next.
        own: Listing ids of the shopper's own past and future, and of the target.
        seed: Another seed gives other listings.

    Returns:
        Listing ids, fewer when the pools hold no more.
    """
    drawn: dict[str, None] = {}
    for pool in pools:
        for listing in _in_random_order(pool, str(seed), query_id):
            if len(drawn) == NEGATIVES:
                return list(drawn)
            if listing not in own:
                drawn[listing] = None
    return list(drawn)


def split_by_time(queries: Iterable[DatasetQuery]) -> tuple[DatasetQuery, ...]:
    """Split by time instead: the latest 20 % ``test``, the 10 % before them ``dev``, the rest ``train``.

    Returns:
        The queries, oldest first, those of the same time by their id.
    """
    ordered = sorted(queries, key=lambda query: (query.time, query.query.query_id))
    dev, test = round(0.7 * len(ordered)), round(0.8 * len(ordered))
    return tuple(
        dataclasses.replace(query, split="train" if i < dev else "dev" if i < test else "test")
        for i, query in enumerate(ordered)
    )


def _in_random_order(pool: Sequence[str], *key: str) -> Iterator[str]:
    """Shuffle (Fisher and Yates) as far as it is asked for, without a copy of the pool."""
    moved: dict[int, int] = {}
    for i in range(len(pool)):
        j = i + int(digest(*key, str(i)), 16) % (len(pool) - i)
        yield pool[moved.get(j, j)]
        moved[j] = moved.pop(i, i)
