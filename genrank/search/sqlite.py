"""What the parts that keep their data in SQLite share."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

WAIT_S = 60
"""Seconds that a writer waits for another one."""

_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


@contextlib.contextmanager
def writing(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction that writes: all of it or, after an error, nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error says that the file is damaged, or no database."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE
