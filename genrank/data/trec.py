"""Runs and qrels as TREC files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from genrank.errors import DataFormatError

N = TypeVar("N", int, float)

Qrels = dict[str, dict[str, int]]
"""``{query_id: {listing_id: grade}}``."""

Run = dict[str, dict[str, float]]
"""``{query_id: {listing_id: score}}``, each query's listings by falling score."""


def read_run(path: str | Path) -> Run:
    """Read a TREC run, ``query_id Q0 listing_id rank score tag``.

    The order is by falling score, as trec_eval has it; equal scores stand by their rank column.

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
    """Write a TREC run; each query's listings by falling score, ranks 1-based."""
    with Path(path).open("w", encoding="utf-8", newline="\n") as out:
        for query_id, scores in run.items():
            ranked = sorted(scores.items(), key=lambda entry: -entry[1])
            for rank, (listing_id, score) in enumerate(ranked, start=1):
                out.write(f"{query_id} Q0 {listing_id} {rank} {score!r} {tag}\n")


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
    """Write TREC qrels."""
    with Path(path).open("w", encoding="utf-8", newline="\n") as out:
        for query_id, judged in qrels.items():
            out.writelines(f"{query_id} 0 {listing_id} {grade}\n" for listing_id, grade in judged.items())


def _columns(path: str | Path, count: int, expected: str) -> Iterator[tuple[int, list[str]]]:
    try:
        with Path(path).open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
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
    """The error for a line that says again what must be said once."""
    return DataFormatError(str(path), line, f"each {what} once", f"{value!r} again")
