"""Keeps results in an append-only file, by key, so that nothing is computed or paid for twice.

Each result is one JSON line, written to disk at once, so a run that was killed can continue with the results it has. If
a line is cut off, only that result is lost.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from genrank.data.jsonl import dump_line


class Journal:
    """The entries of one file, each a JSON object with a key; many threads may add to them.

    Args:
        path: The file; made with its folder when something is added. None keeps entries in memory only.

    Raises:
        OSError: When it cannot be read.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[str, list[Mapping[str, Any]]] = {}
        lines = path.read_bytes().splitlines() if path is not None and path.exists() else []
        for line in lines:
            try:
                fields = json.loads(line)
                key = fields["key"]
            except (ValueError, LookupError, TypeError, RecursionError):
                continue
            self._known.setdefault(str(key), []).append(fields)

    def __iter__(self) -> Iterator[str]:
        """All keys, in the order of their first entries."""
        with self._lock:
            return iter(list(self._known))

    def of(self, key: str) -> list[Mapping[str, Any]]:
        """All entries of a key, oldest first."""
        with self._lock:
            return list(self._known.get(key, ()))

    def total(self, field: str) -> float:
        """The sum of a number over all entries; entries without one count nothing."""
        with self._lock:
            values = [fields.get(field) for found in self._known.values() for fields in found]
        return sum(value for value in values if isinstance(value, (int, float)) and math.isfinite(value))

    def add(self, entries: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Add entries, each with its key; they are on disk when this returns.

        Raises:
            OSError: When they cannot be written.
        """
        added = [(key, {"key": key, **fields}) for key, fields in entries]
        with self._lock:
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("ab") as out:
                    # a line break first: the line before may be cut off
                    out.writelines(b"\n" + dump_line(fields).rstrip("\n").encode() for _, fields in added)
                    out.flush()
                    os.fsync(out.fileno())
            for key, fields in added:
                self._known.setdefault(key, []).append(fields)
