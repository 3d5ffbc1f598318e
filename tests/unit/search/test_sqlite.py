"""Transactions are whole, and damage is told from other errors."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from genrank.search.sqlite import is_damage, writing


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "one", isolation_level=None)
    with writing(connection):
        connection.execute("CREATE TABLE t (x UNIQUE)")
        connection.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(sqlite3.IntegrityError), writing(connection):
        connection.executemany("INSERT INTO t VALUES (?)", [(2,), (1,)])
    assert connection.execute("SELECT x FROM t").fetchall() == [(1,)]
    assert not connection.in_transaction
    connection.close()


def test_damage(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database at all, but long enough to look like one " * 40)
    connection = sqlite3.connect(tmp_path / "text")
    with pytest.raises(sqlite3.DatabaseError) as caught:
        connection.execute("SELECT * FROM t")
    assert is_damage(caught.value)
    connection.close()
    with pytest.raises(sqlite3.OperationalError) as other:
        sqlite3.connect(tmp_path / "none" / "none")
    assert not is_damage(other.value)
