"""What a teacher said, kept in a file by what it was asked, so that nothing is asked twice.

One JSON line an answer, written to disk as soon as it is there: a run that was killed goes on with what it has. A line
that was cut off costs only itself.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from genrank.data.jsonl import dump_line


class Journal:
    """The answers of one file; many threads may add to them.

    Args:
        path: The file; it need not be there.

    Raises:
        OSError: When it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[str, list[Mapping[str, Any]]] = {}
        lines = path.read_bytes().splitlines() if path.exists() else []
        for line in lines:
            try:
                fields = json.loads(line)
                key = fields["key"]
            except (ValueError, LookupError, TypeError, RecursionError):
                continue
            self._known.setdefault(str(key), []).append(fields)

    def of(self, key: str) -> list[Mapping[str, Any]]:
        """All answers to one question, the oldest first."""
        with self._lock:
            return list(self._known.get(key, ()))

    def total(self, field: str) -> float:
        """The sum of a number over all answers."""
        values = (fields.get(field) for found in self._known.values() for fields in found)
        return sum(value for value in values if isinstance(value, (int, float)))

    def add(self, answers: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Keep answers, each with the key of its question; they are on the disk when this returns.

        Raises:
            OSError: When they cannot be written.
        """
        added = [(key, {"key": key, **fields}) for key, fields in answers]
        with self._lock, self._path.open("ab") as out:
            # a line break first: the line before may be cut off
            out.writelines(b"\n" + dump_line(fields).rstrip("\n").encode() for _, fields in added)
            out.flush()
            os.fsync(out.fileno())
            for key, fields in added:
                self._known.setdefault(key, []).append(fields)
