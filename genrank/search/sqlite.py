"""What the parts that keep their data in SQLite share."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

WAIT_S = 60
"""Seconds that a writer waits for another one."""

_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def connect(file: Path, *settings: str, make: bool = False) -> sqlite3.Connection:
    """A connection that threads may share; transactions are begun by hand.

    Args:
        file: The database.
        settings: Pragmas, such as ``secure_delete = ON``.
        make: Whether it is made if it is missing.

    Raises:
        sqlite3.Error: When it cannot be opened, or is damaged.
    """
    address = f"{file.absolute().as_uri()}?mode={'rwc' if make else 'rw'}"
    connection = sqlite3.connect(address, uri=True, timeout=WAIT_S, isolation_level=None, check_same_thread=False)
    try:
        for setting in ("synchronous = NORMAL", f"journal_size_limit = {1 << 26}", *settings):
            connection.execute(f"PRAGMA {setting}")
    except BaseException:  # a damaged file, for example
        connection.close()
        raise
    return connection


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
