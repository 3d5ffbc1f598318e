"""Reads and writes JSON Lines: any objects, request lines and ranking lines."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from genrank.errors import DataFormatError, InputError
from genrank.files import wide_encoding
from genrank.inputs import parse_request
from genrank.types import Interaction, Listing, Ranking, Request, make_listing

MAX_LINE_BYTES = 16 * 2**20
_TOO_DEEP = "JSON nested too deeply"


def read_jsonl(path: str | Path, stream: IO[bytes] | None = None) -> Iterator[tuple[int, Any]]:
    """Read JSON Lines, keeping one line in memory at a time.

    Args:
        path: The file; ``-`` reads standard input. With `stream`, only a name for errors.
        stream: Bytes to read instead of the file.

    Yields:
        The line number, 1-based, and the parsed value, or a `DataFormatError` if the line is broken: not UTF-8, not
        JSON, NaN or infinity, longer than `MAX_LINE_BYTES`. Blank lines are skipped. Byte-order marks are dropped.

    Raises:
        DataFormatError: When the file cannot be read, is UTF-16 or UTF-32, or holds no line at all.
    """
    name = "<stdin>" if str(path) == "-" else str(path)
    with contextlib.ExitStack() as stack:
        read = stream.readline if stream is not None else _reader(name, path, stack)
        empty = True
        number = 0
        while line := read(MAX_LINE_BYTES + 1):
            number += 1
            if number == 1 and (encoding := wide_encoding(line)):
                raise DataFormatError(name, 0, "UTF-8 text", f"{encoding}; save it as UTF-8")
            if len(line) > MAX_LINE_BYTES:
                while not line.endswith(b"\n") and (line := read(MAX_LINE_BYTES)):
                    pass
                empty = False
                yield (
                    number,
                    DataFormatError(name, number, f"a line of at most {MAX_LINE_BYTES} bytes", "a longer one"),
                )
            elif (line := _without_marks(line)).strip():  # files put one behind another have several
                empty = False
                yield number, parse_line(name, number, line)
        if empty:
            raise DataFormatError(name, 0, "at least one line of JSON", "an empty file")


def _without_marks(line: bytes) -> bytes:
    while line.startswith(BOM_UTF8):
        line = line.removeprefix(BOM_UTF8)
    return line


def _reader(name: str, path: str | Path, stack: contextlib.ExitStack) -> Callable[[int], bytes]:
    """What reads a line of the file, or of standard input for ``-``; `stack` closes the file."""

    def unreadable(error: OSError) -> DataFormatError:
        return DataFormatError(name, 0, "a readable file", error.strerror or str(error))

    if str(path) == "-":
        if sys.stdin is None:
            raise DataFormatError(name, 0, "request lines", "standard input is closed")
        stream: IO[bytes] = sys.stdin.buffer
    else:
        try:
            stream = stack.enter_context(Path(path).open("rb"))  # noqa: SIM115 - the caller's stack closes it
        except OSError as error:
            raise unreadable(error) from None

    def read(size: int) -> bytes:
        try:
            return stream.readline(size)
        except OSError as error:
            raise unreadable(error) from None

    return read


def parse_line(name: str, number: int, line: bytes) -> Any:
    """One line of JSON.

    Args:
        name: The file, for errors.
        number: The line's number, 1-based, for errors.
        line: Its bytes.

    Returns:
        The value, or the `DataFormatError` of a broken line.
    """

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant}, which is not a JSON number")

    try:
        return json.loads(line.decode("utf-8"), parse_constant=refuse)
    except UnicodeDecodeError as error:
        rest = line.rstrip()[error.start :]
        half = len(rest) < 4 and 0xC2 <= rest[0] <= 0xF4
        guess = "is the line cut off?" if half else "is this a binary file?"
        found = f"the byte {rest[0]:#04x} at column {error.start + 1} ({guess})"
        return DataFormatError(name, number, "UTF-8 text", found)
    except json.JSONDecodeError as error:
        # Python reports a string that is cut off at its start, a literal or an escape up to 6 characters before the end
        half = error.msg.startswith("Unterminated string") or error.pos >= len(error.doc.rstrip()) - 6
        cut = " (is the line cut off?)" if half else ""
        return DataFormatError(name, number, "one JSON object", f"{error.msg} at column {error.colno}{cut}")
    except RecursionError:
        return DataFormatError(name, number, "one JSON object", _TOO_DEEP)
    except ValueError as error:
        # Python's own message suggests changing a limit of the interpreter
        digits = re.search(r"has (\d+) digits", str(error))
        found = f"a number of {digits[1]} digits" if digits else str(error)
        return DataFormatError(name, number, "one JSON object", found)


def write_jsonl(path: str | Path, objects: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON Lines in UTF-8."""
    with Path(path).open("w", encoding="utf-8", newline="\n") as out:
        for fields in objects:
            out.write(dump_line(fields))


def dump_line(fields: Mapping[str, Any]) -> str:
    """One JSON line with its line break; lone surrogates are escaped, so that it can always be encoded as UTF-8."""
    text = json.dumps(fields, ensure_ascii=False, default=str)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = json.dumps(fields, default=str)
    return text + "\n"


def read_requests(path: str | Path, stream: IO[bytes] | None = None) -> Iterator[tuple[int, Request | DataFormatError]]:
    """Read request lines, keeping one in memory at a time.

    Args:
        path: The file; ``-`` reads standard input. With `stream`, only a name for errors.
        stream: Bytes to read instead of the file.

    Yields:
        The line number, 1-based, and the line's request, or a `DataFormatError` if the line is wrong.

    Raises:
        DataFormatError: When the file cannot be opened, or holds no line at all.
    """
    name = "<stdin>" if str(path) == "-" else str(path)
    for number, value in read_jsonl(path, stream):
        if isinstance(value, DataFormatError):
            yield number, value
            continue
        try:
            yield number, parse_request(value)
        except InputError as error:
            yield number, DataFormatError(name, number, "a rerank request", str(error))
        except RecursionError:
            yield number, DataFormatError(name, number, "a rerank request", _TOO_DEEP)


def read_listings(path: str | Path) -> Iterator[Listing]:
    """Read a catalogue: one listing a line, of which one is in memory at a time.

    Args:
        path: The file; ``-`` reads standard input.

    Raises:
        DataFormatError: When the file cannot be opened or holds no line, or a line is wrong.
    """
    name = "<stdin>" if str(path) == "-" else str(path)
    for number, value in read_jsonl(path):
        if isinstance(value, DataFormatError):
            raise value
        if not isinstance(value, dict):
            raise DataFormatError(name, number, "one JSON object", type(value).__name__)
        try:
            yield make_listing(value)
        except InputError as error:
            raise DataFormatError(name, number, "a listing", str(error)) from None


def request_fields(request: Request) -> dict[str, Any]:
    """A request as the object of a request line."""
    fields: dict[str, Any] = {"query_id": request.query.query_id} if request.query.query_id else {}
    fields["query"] = request.query.text
    if request.history:
        fields["history"] = [interaction_fields(interaction) for interaction in request.history]
    fields["candidates"] = [
        candidate.listing.to_dict()
        | {key: value for key, value in (("score", candidate.score), ("rank", candidate.rank)) if value is not None}
        for candidate in request.candidates
    ]
    return fields


def write_rankings(path: str | Path, rankings: Iterable[Ranking]) -> None:
    """Write ranking lines."""
    write_jsonl(path, (ranking.to_dict() for ranking in rankings))


def interaction_fields(interaction: Interaction) -> dict[str, Any]:
    """An interaction as JSON types."""
    fields: dict[str, Any] = {"event": interaction.event}
    if interaction.time is not None:
        fields["time"] = iso_time(interaction.time)
    if interaction.rating is not None:
        fields["rating"] = interaction.rating
    if interaction.query:
        fields["query"] = interaction.query
    return fields | {"listing": interaction.listing.to_dict()}


def iso_time(time: datetime) -> str:
    """A time as ISO 8601, with ``Z`` for UTC."""
    return time.isoformat().replace("+00:00", "Z")
