"""Writes the answers of a job so that a kill at any moment loses only what was not yet on disk.

JSON Lines are appended in whole lines and flushed to the disk; half a line at the end, of a run that was killed, is cut
off. Parquet is a folder of parts that appear whole or not at all; answers wait for their part in such lines beside it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from genrank.data.jsonl import dump_line
from genrank.engines.base import Closing
from genrank.errors import DataFormatError, MissingExtraError
from genrank.files import sync, write_atomically

KeyOf = Callable[[Mapping[str, Any]], str | None]
"""The key of a written line; None when it is no line of this kind."""

PART_ROWS = 10_000
"""The most rows of a part of Parquet."""

_PART_BYTES = 64 << 20
_WAITING = ".waiting.jsonl"


class Output(Protocol):
    """Where a job's answers go."""

    def recover(self) -> Iterator[str]:
        """The keys of the answers that are there; what a killed run left unfinished is removed. Called once, first.

        Raises:
            DataFormatError: When it holds something that no job has written.
        """

    def append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Add answers; they are on disk when this returns.

        Raises:
            OSError: When they cannot be written.
        """

    def finish(self) -> None:
        """Complete the output: all rows are answered.

        Raises:
            OSError: When it cannot be written.
        """

    def close(self) -> None:
        """Close the files."""


class LinesOutput(Closing):
    """A file of JSON Lines.

    Args:
        path: The file; made when it is missing.
        key_of: Tells the lines' keys.
    """

    def __init__(self, path: Path, key_of: KeyOf) -> None:
        self.path = path
        self._key_of = key_of
        is_new = not path.exists()
        self._file = path.open("ab+")
        if is_new:
            with contextlib.suppress(OSError):  # some file systems cannot sync a folder
                sync(path.parent)

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self._file.seek(0, os.SEEK_END)

    def recover(self) -> Iterator[str]:
        """See `Output`."""
        for key, _ in self.lines():
            yield key

    def lines(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The keys and the lines; half a line at the end is cut off.

        Raises:
            DataFormatError: When a whole line is not one that a job has written.
        """
        self._file.seek(0)
        end = number = 0
        while line := self._file.readline():
            number += 1
            if not line.endswith(b"\n"):
                self._file.truncate(end)
                break
            end += len(line)
            yield self._read(line, number)

    def append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """See `Output`."""
        if lines:
            self._file.write("".join(map(dump_line, lines)).encode())
            self._file.flush()
            os.fsync(self._file.fileno())

    def clear(self) -> None:
        """Remove all lines."""
        self._file.truncate(0)

    def finish(self) -> None:
        """See `Output`."""

    def close(self) -> None:
        """See `Output`."""
        self._file.close()

    def _read(self, line: bytes, number: int) -> tuple[str, Mapping[str, Any]]:
        fields: Mapping[str, Any] = {}
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(line)
            fields = found if isinstance(found, dict) else {}
        key = self._key_of(fields)
        if key is None:
            start = line[:60].decode("utf-8", "replace")
            raise DataFormatError(str(self.path), number, "a line that genrank batch wrote", repr(start))
        return key, fields


class ParquetOutput(Closing):
    """A folder of Parquet parts, with the columns of `schema`.

    Args:
        folder: The folder; made when it is missing.
        key_of: Tells the lines' keys.
        part_rows: The most rows of a part.

    Raises:
        MissingExtraError: When pyarrow is not installed.
    """

    def __init__(self, folder: Path, key_of: KeyOf, *, part_rows: int = PART_ROWS) -> None:
        schema()
        self._folder = folder
        self._key_of = key_of
        self._part_rows = part_rows
        folder.mkdir(exist_ok=True)
        self._waiting = LinesOutput(folder / _WAITING, key_of)
        self._count = 0

    def recover(self) -> Iterator[str]:
        """See `Output`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        for left in self._folder.glob(".*.part"):
            left.unlink()
        known: set[str] = set()
        waiting = dict(self._waiting.lines())
        for part in self._parts():
            try:
                with pq.ParquetFile(part) as opened:
                    for batch in opened.iter_batches(batch_size=1000, columns=["query_id", "row"]):
                        for fields in batch.to_pylist():
                            key = self._key_of(fields) or ""
                            known.update({key} & waiting.keys())
                            yield key
            except (OSError, pa.ArrowException, KeyError) as error:
                found = " ".join(str(error).split())
                raise DataFormatError(str(part), 0, "a part that genrank batch wrote", found) from None
        if known:  # killed after these lines had become a part
            self._waiting.clear()
            self._waiting.append([fields for key, fields in waiting.items() if key not in known])
        self._count = len(waiting) - len(known)
        yield from (key for key in waiting if key not in known)

    def append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """See `Output`."""
        while lines:
            room = self._part_rows - self._count
            some, lines = lines[:room], lines[room:]
            self._waiting.append(some)
            self._count += len(some)
            if self._count >= self._part_rows or self._waiting.size >= _PART_BYTES:
                self._write_part()

    def finish(self) -> None:
        """See `Output`; a job without answers leaves a part without rows, so that the columns are known."""
        if self._count or not self._parts():
            self._write_part()
        self._waiting.close()
        self._waiting.path.unlink()

    def close(self) -> None:
        """See `Output`."""
        self._waiting.close()

    def _parts(self) -> list[Path]:
        return sorted(self._folder.glob("part-*.parquet"))

    def _write_part(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        parts = self._parts()
        number = int(parts[-1].stem.removeprefix("part-")) + 1 if parts else 0
        rows = [_columns(fields) for _, fields in self._waiting.lines()]
        with write_atomically(self._folder / f"part-{number:06}.parquet") as part:
            pq.write_table(pa.Table.from_pylist(rows, schema=schema()), part, compression="zstd")
        self._waiting.clear()
        self._count = 0


def schema() -> Any:
    """The columns of the answers: those of a ranking line, with the provenance as JSON.

    Raises:
        MissingExtraError: When pyarrow is not installed.
    """
    try:
        import pyarrow as pa
    except ImportError:
        raise MissingExtraError("pyarrow", "batch") from None
    item = [
        ("listing_id", pa.string()),
        ("rank", pa.int32()),
        ("score", pa.float64()),
        ("source_rank", pa.int32()),
        ("reason", pa.string()),
        ("evidence", pa.list_(pa.string())),
    ]
    return pa.schema(
        [
            ("query_id", pa.string()),
            ("row", pa.string()),
            ("items", pa.list_(pa.struct(item))),
            ("outcome", pa.string()),
            ("provenance", pa.string()),
        ]
    )


def _columns(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A ranking line as a row of Parquet."""
    provenance = fields["provenance"]
    items = [{"reason": None, "evidence": []} | item for item in fields["items"]]
    return {
        "query_id": fields["query_id"],
        "row": fields.get("row"),
        "items": items,
        "outcome": provenance["outcome"],
        "provenance": dump_line(provenance).rstrip("\n"),
    }
