"""Reads the rows of a job from JSON Lines or Parquet, a few at a time; a row can be read again by its place."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, Protocol

from genrank.data.jsonl import read_jsonl
from genrank.errors import DataFormatError, InputError, MissingExtraError
from genrank.files import BLOCK

COLUMNS = ("query_id", "query", "history", "candidates", "intent")
"""The columns that are read from Parquet; others are ignored."""

_READ_TOGETHER = 64  # rows of Parquet that are in memory at once
_KINDS = (".jsonl", ".parquet")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands.

    Attributes:
        file: Which of the source's files, 0-based.
        number: The row's number in the file, 1-based; for JSON Lines the line's.
        offset: A byte of the file, at or before the row, from which its line can be read; 0 for Parquet.
    """

    file: int
    number: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it was read, unchecked.

    Attributes:
        place: Where it stands.
        label: The place for people, such as ``requests.jsonl:7``.
        value: What it holds, or what is wrong with it.
    """

    place: Place
    label: str
    value: Any | DataFormatError


class Source(Protocol):
    """A job's input."""

    def count(self) -> int | None:
        """How many rows there are; None when that cannot be known beforehand."""

    def digest(self) -> str:
        """Tells whether the input has changed: a hash of its sizes, and of each file's beginning and end; or empty."""

    def rows(self) -> Iterator[Row]:
        """All rows, in order.

        Raises:
            DataFormatError: When a file cannot be read.
        """

    def read(self, places: Sequence[Place]) -> list[Row]:
        """The rows at some places. Fast where they come in the order of the files.

        Raises:
            DataFormatError: When a file cannot be read.
        """


def open_source(path: str) -> Source:
    """The source for a file or a folder of files; ``-`` is JSON Lines on standard input.

    Raises:
        InputError: When there is no such file, or a folder holds files of both kinds, or none.
        MissingExtraError: When it is Parquet, and pyarrow is not installed.
    """
    if path == "-":
        return LinesSource([], name="<stdin>")
    root = Path(path)
    if not root.exists():
        raise InputError(f"there is no file or folder {path}", field="IN")
    files = [root]
    if root.is_dir():
        shown = (file for file in sorted(root.rglob("*")) if file.is_file() and file.suffix in _KINDS)
        files = [file for file in shown if not any(part[0] in "._" for part in file.relative_to(root).parts)]
        files = [file for file in files if file.stat().st_size]
        if len({file.suffix for file in files}) != 1:
            raise InputError(f"{path} must hold files of one kind, *.jsonl or *.parquet", field="IN")
    names = [file.relative_to(root).as_posix() if root.is_dir() else file.name for file in files]
    return ParquetSource(files, names) if files[0].suffix == ".parquet" else LinesSource(files, names)


class LinesSource:
    """Rows of JSON Lines.

    Args:
        files: The files; none reads standard input.
        names: What to call them.
        name: What to call standard input.
    """

    def __init__(self, files: Sequence[Path], names: Sequence[str] = (), *, name: str = "") -> None:
        self._files = files
        self._names = names or [name]

    def count(self) -> int | None:
        """See `Source`; blank lines count too."""
        return sum(map(_lines, self._files)) if self._files else None

    def digest(self) -> str:
        """See `Source`."""
        return _digest(self._files, self._names)

    def rows(self) -> Iterator[Row]:
        """See `Source`."""
        if not self._files:
            if sys.stdin is None:
                raise DataFormatError(self._names[0], 0, "request lines", "standard input is closed")
            yield from self._rows(0, sys.stdin.buffer)
        for i, file in enumerate(self._files):
            with _opened(file) as stream:
                yield from self._rows(i, stream)

    def read(self, places: Sequence[Place]) -> list[Row]:
        """See `Source`."""
        found = []
        for place in places:
            with _opened(self._files[place.file]) as stream:
                stream.seek(place.offset)
                _, value = next(read_jsonl(self._names[place.file], stream))
            found.append(self._row(place, value))
        return found

    def _rows(self, file: int, stream: IO[bytes]) -> Iterator[Row]:
        counted = _Counted(stream)
        offset = 0
        for number, value in read_jsonl(self._names[file], counted):  # type: ignore[arg-type]
            yield self._row(Place(file, number, offset), value)
            offset = counted.offset

    def _row(self, place: Place, value: Any) -> Row:
        name = self._names[place.file]
        if isinstance(value, DataFormatError):  # read by its offset, a line's number is not known
            value = DataFormatError(name, place.number, *_said(value))
        return Row(place, f"{name}:{place.number}", value)


class ParquetSource:
    """Rows of Parquet files, with the columns `COLUMNS`.

    Args:
        files: The files.
        names: What to call them.

    Raises:
        DataFormatError: When a file is not Parquet, or has no column ``query`` or ``candidates``.
        MissingExtraError: When pyarrow is not installed.
    """

    def __init__(self, files: Sequence[Path], names: Sequence[str]) -> None:
        self._files = files
        self._names = names
        self._at = _Position()
        _parquet()
        for file, name in zip(files, names, strict=True):
            with _open_parquet(file, name) as opened:
                missing = {"query", "candidates"}.difference(opened.schema_arrow.names)
                if missing:
                    found = ", ".join(opened.schema_arrow.names)
                    raise DataFormatError(name, 0, f"the columns {', '.join(COLUMNS)}", f"only {found}")

    def count(self) -> int | None:
        """See `Source`."""
        total = 0
        for file, name in zip(self._files, self._names, strict=True):
            with _open_parquet(file, name) as opened:
                total += opened.metadata.num_rows
        return total

    def digest(self) -> str:
        """See `Source`."""
        return _digest(self._files, self._names)

    def rows(self) -> Iterator[Row]:
        """See `Source`."""
        for i in range(len(self._files)):
            yield from self._rows(i)

    def read(self, places: Sequence[Place]) -> list[Row]:
        """See `Source`. Reads on from the last place, so many readers of one file each pass over it once."""
        found = []
        for place in places:
            if self._at.rows is None or self._at.file != place.file or self._at.number >= place.number:
                self._at = _Position(place.file, 0, self._rows(place.file))
            for row in self._at.rows or ():
                self._at.number = row.place.number
                if row.place.number == place.number:
                    found.append(row)
                    break
            else:
                raise DataFormatError(self._names[place.file], place.number, "a row", "the end of the file")
        return found

    def _rows(self, file: int) -> Iterator[Row]:
        name = self._names[file]
        number = 0
        with _open_parquet(self._files[file], name) as opened:
            columns = [column for column in COLUMNS if column in opened.schema_arrow.names]
            for batch in opened.iter_batches(batch_size=_READ_TOGETHER, columns=columns):
                for fields in batch.to_pylist():
                    number += 1
                    yield Row(Place(file, number), f"{name}:{number}", _from_columns(fields, name, number))


@dataclass
class _Position:
    """How far a reader has come in a file."""

    file: int = -1
    number: int = 0
    rows: Iterator[Row] | None = None


class _Counted:
    """A stream of which only lines are read; `offset` is where the next one begins."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.offset = 0

    def readline(self, size: int = -1) -> bytes:
        line = self._stream.readline(size)
        self.offset += len(line)
        return line


def _opened(file: Path) -> IO[bytes]:
    try:
        return file.open("rb")
    except OSError as error:
        raise DataFormatError(str(file), 0, "a readable file", error.strerror or str(error)) from None


def _lines(file: Path) -> int:
    """The lines of a file; the last one needs no line break."""
    count, last = 0, b"\n"
    with _opened(file) as stream:
        while block := stream.read(BLOCK):
            count, last = count + block.count(b"\n"), block[-1:]
    return count + (last != b"\n")


def _digest(files: Sequence[Path], names: Sequence[str]) -> str:
    if not files:
        return ""
    total = hashlib.sha256()
    for file, name in zip(files, names, strict=True):
        with _opened(file) as stream:
            size = stream.seek(0, os.SEEK_END)
            total.update(json.dumps([name, size]).encode())
            for start in (0, max(0, size - BLOCK)):
                stream.seek(start)
                total.update(stream.read(BLOCK))
    return total.hexdigest()


def _said(error: DataFormatError) -> tuple[str, str]:
    """What an error expected and found."""
    _, _, said = str(error).partition(": expected ")
    expected, _, found = said.partition(", found ")
    return expected, found


def _parquet() -> Any:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError("pyarrow", "batch") from None
    return pq


def _open_parquet(file: Path, name: str) -> Any:
    import pyarrow as pa

    try:
        return _parquet().ParquetFile(file)
    except (OSError, pa.ArrowException) as error:
        raise DataFormatError(name, 0, "a Parquet file", " ".join(str(error).split())) from None


def _from_columns(fields: Mapping[str, Any], name: str, number: int) -> Any | DataFormatError:
    """The object of a request line that a row of Parquet stands for; nested columns may be JSON as text."""
    made: dict[str, Any] = {}
    for key, value in fields.items():
        if value is None:
            continue
        if key in ("history", "candidates", "intent") and isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                return DataFormatError(name, number, f"JSON in the column {key}", str(error))
        made[key] = _plain(value)
    if isinstance(made.get("query_id"), int):
        made["query_id"] = str(made["query_id"])
    return made


def _plain(value: Any) -> Any:
    """A value of Parquet as JSON has it; what is null is left out, a map becomes an object."""
    match value:
        case Mapping():
            return {key: _plain(part) for key, part in value.items() if part is not None}
        case [(str(), _), *_] if all(isinstance(pair, tuple) for pair in value):
            return {key: _plain(part) for key, part in value if part is not None}
        case list():
            return [_plain(part) for part in value]
        case datetime():
            return value.isoformat()
        case Decimal():
            return float(value)
    return value
