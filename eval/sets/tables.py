"""Reading CSV files row by row, with a `DataFormatError` for whatever is wrong with them."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from genrank.errors import DataFormatError
from genrank.files import wide_encoding

_FIELD_LIMIT = 16 * 2**20  # characters; csv's own limit of 131,072 is below some real descriptions


def find_file(source: Path, names: Sequence[str]) -> Path:
    """The file itself, or the first of `names` in the folder `source`.

    Raises:
        DataFormatError: When there is no such file.
    """
    if source.is_dir():
        for name in names:
            if (source / name).is_file():
                return source / name
        raise DataFormatError(str(source), 0, f"a folder with {' or '.join(names)}", "no such file in it")
    if not source.exists():
        raise DataFormatError(str(source), 0, "a file or folder", "nothing there")
    return source


def read_csv(path: Path, columns: Sequence[str], delimiter: str = ",") -> Iterator[tuple[int, dict[str, str]]]:
    """Read a CSV file in UTF-8 with a header line; ``.gz`` is unpacked on the way.

    Args:
        path: The file.
        columns: Columns that must be there; others are passed on too.
        delimiter: Character between two fields.

    Yields:
        The line that the row ends on, 1-based, and the row.

    Raises:
        DataFormatError: When the file cannot be read as CSV, is empty, lacks a column, or a row has a different number
            of fields than the header.
    """
    name = str(path)
    with contextlib.ExitStack() as stack:
        try:
            packed = stack.enter_context(path.open("rb"))
            plain = stack.enter_context(gzip.GzipFile(fileobj=packed)) if path.suffix == ".gz" else packed
            if encoding := wide_encoding(plain.peek(4)):
                raise DataFormatError(name, 0, "UTF-8 text", f"{encoding}; save it as UTF-8")
            text = stack.enter_context(io.TextIOWrapper(plain, encoding="utf-8-sig", newline=""))
            csv.field_size_limit(_FIELD_LIMIT)
            rows = csv.reader(text, delimiter=delimiter, strict=True)
            header = next(rows, None)
            if header is None:
                raise DataFormatError(name, 0, "a header line", "an empty file")
            missing = [column for column in columns if column not in header]
            if missing:
                raise DataFormatError(name, 1, f"the columns {', '.join(columns)}", f"no {missing[0]} in {header}")
            empty = True
            for row in rows:
                if not row:
                    continue
                if len(row) != len(header):
                    raise DataFormatError(name, rows.line_num, f"{len(header)} fields", f"{len(row)}")
                empty = False
                yield rows.line_num, dict(zip(header, row, strict=True))
            if empty:
                raise DataFormatError(name, 0, "at least one row", "a header alone")
        except csv.Error as error:
            raise DataFormatError(name, rows.line_num, "CSV", str(error)) from None
        except UnicodeDecodeError as error:
            raise DataFormatError(
                name, 0, "UTF-8 text", f"{error.reason}; save it as UTF-8 (or is this a binary file?)"
            ) from None
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataFormatError(name, 0, "a gzip file", str(error)) from None
        except OSError as error:
            raise DataFormatError(name, 0, "a readable file", error.strerror or str(error)) from None
