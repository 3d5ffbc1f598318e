"""Which rows of a job are done, and which have come up in this run: on disk, so that memory stays constant."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path
from typing import Literal

from genrank.engines.base import Closing

State = Literal["new", "done", "again"]
"""Of a row: to be ranked; answered in an earlier run; or its id came up before in this run."""

_DONE, _SEEN = 1, 2


class Ledger(Closing):
    """A set of keys with their states, in a file that `close` removes. It starts empty: the output is what counts.

    Args:
        path: The file; an old one is replaced.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.unlink(missing_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        # one transaction that is never committed: after a crash the file is worthless anyway
        for line in ("journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE", "cache_size = -16384"):
            self._db.execute(f"PRAGMA {line}")
        self._db.execute("CREATE TABLE keys (key BLOB PRIMARY KEY, state INTEGER) WITHOUT ROWID")
        self._db.execute("BEGIN")

    def add_done(self, key: str) -> bool:
        """Record that a key is done; False when it was already."""
        found = self._state(digest := _digest(key))
        self._set(digest, found | _DONE)
        return not found & _DONE

    def is_done(self, key: str) -> bool:
        """Whether a key is done."""
        return bool(self._state(_digest(key)) & _DONE)

    def see(self, key: str) -> State:
        """The state of a row that comes up in this run."""
        found = self._state(digest := _digest(key))
        if found & _SEEN:
            return "again"
        self._set(digest, found | _SEEN)
        return "done" if found & _DONE else "new"

    def close(self) -> None:
        """Remove the file."""
        self._db.close()
        self._path.unlink(missing_ok=True)

    def _state(self, digest: bytes) -> int:
        row = self._db.execute("SELECT state FROM keys WHERE key = ?", (digest,)).fetchone()
        state: int = row[0] if row else 0
        return state

    def _set(self, digest: bytes, state: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO keys VALUES (?, ?)", (digest, state))


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
