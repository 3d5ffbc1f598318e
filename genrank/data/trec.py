"""Reads and writes runs and qrels as TREC files."""

from __future__ import annotations

import io
import math
import operator
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from genrank.errors import DataFormatError, InputError, shown
from genrank.files import BYTE_ORDER_MARK, wide_encoding

N = TypeVar("N", int, float)

Qrels = dict[str, dict[str, int]]
"""``{query_id: {listing_id: grade}}``."""

Run = dict[str, dict[str, float]]
"""``{query_id: {listing_id: score}}``, each query's listings by falling score."""


_FLOAT32, _BITS = struct.Struct("<f"), struct.Struct("<i")
_LARGEST = (2 - 2**-23) * 2.0**127
_SMALLEST = 2.0**-126  # some tools read smaller numbers as 0
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_run(path: str | Path) -> Run:
    """Read a TREC run, ``query_id Q0 listing_id rank score tag``.

    Listings come by falling score. Ties are ordered by the rank column, as the file's author ordered them; trec_eval
    ignores that column and orders ties by falling listing id. `write_run` never writes ties.

    Raises:
        DataFormatError: When a line is broken, a score is not finite, or a query names a listing twice.
    """
    rows: dict[str, list[tuple[float, int, str]]] = {}
    seen: set[tuple[str, str]] = set()
    for number, parts in _columns(path, 6, "query_id Q0 listing_id rank score tag"):
        query_id, _, listing_id, rank_text, score_text, _ = parts
        rank = _number(path, number, "a whole-number rank", rank_text, int)
        score = _number(path, number, "a finite score", score_text, float)
        if (query_id, listing_id) in seen:
            raise repeated_error(path, number, f"listing_id of query {query_id}", listing_id)
        seen.add((query_id, listing_id))
        rows.setdefault(query_id, []).append((-score, rank, listing_id))
    return {
        query_id: {listing_id: -negative for negative, _, listing_id in sorted(entries)}
        for query_id, entries in rows.items()
    }


def write_run(path: str | Path, run: Mapping[str, Mapping[str, float]], tag: str = "genrank") -> None:
    """Write a TREC run: each query's listings by falling score, ties in the mapping's order, with 1-based ranks.

    Every IR tool reads back this order; see `falling`.

    Args:
        path: The file.
        run: Finite scores by query and listing.
        tag: Name of the run; white space in it becomes ``-``.

    Raises:
        InputError: When a score is not a finite number, or an id is empty or holds white space.
        OSError: When the file cannot be written.
    """
    tag = "-".join(tag.split()) or "genrank"
    with Path(path).open("w", encoding="utf-8", newline="\n") as out:
        for query_id, scores in run.items():
            _check_ids((query_id, *scores), "run")
            finite = {key: _finite(query_id, key, score) for key, score in scores.items()}
            order = sorted(finite, key=finite.__getitem__, reverse=True)  # keeps the order of ties
            written = zip(order, falling([finite[key] for key in order]), strict=True)
            for rank, (listing_id, score) in enumerate(written, start=1):
                out.write(f"{query_id} Q0 {listing_id} {rank} {score!r} {tag}\n")


def falling(scores: Sequence[float]) -> list[float]:
    """Make scores fall strictly, both in float32 (as trec_eval reads them) and in float64.

    A score stays as it is if, in float32, it is below the one before it. Otherwise it becomes the next lower float32
    number. If that leaves float32's range, the scores become ``n, n - 1, .. 1``.

    Args:
        scores: ``[n]`` finite scores that do not rise.

    Returns:
        ``[n]`` strictly falling scores.
    """
    if scores and max(abs(scores[0]), abs(scores[-1])) > _LARGEST:
        return _places(len(scores))
    found: list[float] = []
    last = math.inf
    for score in scores:
        rounded = _float32(score)
        if rounded < last:
            found.append(score)
        elif last == -_LARGEST:
            return _places(len(scores))
        else:
            rounded = _below(last)
            found.append(rounded)
        last = rounded
    return found


def _places(count: int) -> list[float]:
    return [float(count - i) for i in range(count)]


def _float32(number: float) -> float:
    rounded: float = _FLOAT32.unpack(_FLOAT32.pack(number))[0]
    return rounded if abs(rounded) >= _SMALLEST else 0.0


def _below(number: float) -> float:
    """The next lower float32 number, skipping those between 0 and `_SMALLEST`."""
    if number == 0:
        return -_SMALLEST
    if number == _SMALLEST:
        return 0.0
    (bits,) = _BITS.unpack(_FLOAT32.pack(number))  # sign and magnitude
    lower: float = _FLOAT32.unpack(_BITS.pack(bits - 1 if number > 0 else bits + 1))[0]
    return lower


def _finite(query_id: str, listing_id: str, score: float) -> float:
    try:
        number = float(score)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        message = f"query {query_id!r}: the score of listing {listing_id!r} must be a finite number, got {score!r:.80}"
        raise InputError(message, field="run")
    return number


def _check_ids(ids: Iterable[object], field: str) -> None:
    for key in ids:
        if not isinstance(key, str):
            raise InputError(f"an id must be text, got {shown(key)}", field=field)
        if len(key.split()) != 1 or key != key.strip():
            raise InputError(f"an id must be non-empty and without white space, got {shown(key)}", field=field)
        if key.startswith(BYTE_ORDER_MARK) or _SURROGATE.search(key):  # no UTF-8 file gives these back
            raise InputError(f"an id must be printable, got {shown(key)}", field=field)


def read_qrels(path: str | Path) -> Qrels:
    """Read TREC qrels, ``query_id 0 listing_id grade`` with a whole-number grade.

    Raises:
        DataFormatError: When a line is broken or a judgement repeats.
    """
    qrels: Qrels = {}
    for number, (query_id, _, listing_id, grade) in _columns(path, 4, "query_id 0 listing_id grade"):
        judged = qrels.setdefault(query_id, {})
        if listing_id in judged:
            raise repeated_error(path, number, f"listing_id of query {query_id}", listing_id)
        judged[listing_id] = _number(path, number, "a whole-number grade", grade, int)
    return qrels


def write_qrels(path: str | Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Write TREC qrels.

    Raises:
        InputError: When a grade is not a whole number, or an id is empty or holds white space.
        OSError: When the file cannot be written.
    """
    with Path(path).open("w", encoding="utf-8", newline="\n") as out:
        for query_id, judged in qrels.items():
            _check_ids((query_id, *judged), "qrels")
            for listing_id, grade in judged.items():
                out.write(f"{query_id} 0 {listing_id} {_whole_grade(query_id, listing_id, grade)}\n")


def _whole_grade(query_id: str, listing_id: str, grade: object) -> int:
    try:
        return int(operator.index(grade))  # type: ignore[arg-type]  # it says so when it is none
    except TypeError:
        message = f"query {query_id!r}: the grade of listing {listing_id!r} must be a whole number, got {shown(grade)}"
        raise InputError(message, field="qrels") from None


def _columns(path: str | Path, count: int, expected: str) -> Iterator[tuple[int, list[str]]]:
    try:
        with Path(path).open("rb") as file, io.TextIOWrapper(file, encoding="utf-8") as lines:
            if encoding := wide_encoding(file.peek(4)):
                raise DataFormatError(str(path), 0, "UTF-8 text", f"{encoding}; save it as UTF-8")
            for number, line in enumerate(lines, start=1):
                line = line.lstrip(BYTE_ORDER_MARK)  # concatenated files have several
                if not line.strip():
                    continue
                parts = line.split()
                if len(parts) != count:
                    raise DataFormatError(str(path), number, expected, f"{len(parts)} columns: {line.strip()[:80]!r}")
                yield number, parts
    except OSError as error:
        raise DataFormatError(str(path), 0, "a readable file", error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise DataFormatError(str(path), 0, "UTF-8 text", "other bytes (is this a binary file?)") from None


def _number(path: str | Path, line: int, expected: str, text: str, kind: type[N]) -> N:
    try:
        number = kind(text)
        finite = math.isfinite(number)
    except (ValueError, OverflowError):
        finite = False
    if not finite:
        shown = text if len(text) <= 80 else text[:77] + "..."
        raise DataFormatError(str(path), line, expected, repr(shown))
    return number


def repeated_error(path: str | Path, line: int, what: str, value: str) -> DataFormatError:
    """The error for a line that repeats a value that must be unique."""
    return DataFormatError(str(path), line, f"each {what} once", f"{value!r} again")
