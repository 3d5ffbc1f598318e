"""What shoppers did, kept for their next search, and forgotten on request."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from genrank.data.jsonl import interaction_fields
from genrank.errors import DataFormatError, InputError, shown
from genrank.inputs import whole_number
from genrank.prompting.history import in_time_order, usefulness
from genrank.search.sqlite import WAIT_S, is_damage, writing
from genrank.text.words import words
from genrank.types import Interaction, Listing, Query, make_interaction

_APPLICATION = 0x67726E73  # "grns", in the file's header
_KEPT = 200  # interactions of a shopper
_TABLES = """
CREATE TABLE interactions (number INTEGER PRIMARY KEY AUTOINCREMENT, user_id TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX by_user ON interactions (user_id, number);
"""


class Shoppers:
    """A file of shoppers' interactions (SQLite): many processes may read it while one writes.

    Use it as a context manager, or close it. Threads may share one.

    Args:
        path: The file; it is made if it is missing.
        kept: How many interactions of a shopper are kept; the oldest go.

    Raises:
        InputError: When `kept` is less than 1.
        DataFormatError: When the file is something else, or damaged.
        OSError: When it cannot be read or written.
    """

    def __init__(self, path: str | Path, *, kept: int = _KEPT) -> None:
        self.path: Path = Path(path)
        self._kept = whole_number("kept", kept, at_least=1)
        self._lock = threading.RLock()
        with self._reporting():
            self._connection = sqlite3.connect(self.path, timeout=WAIT_S, isolation_level=None, check_same_thread=False)
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self) -> None:
        run = self._connection.execute
        run("PRAGMA secure_delete = ON")  # what is forgotten is overwritten
        run("PRAGMA journal_mode = WAL")
        with writing(self._connection):
            if not run("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                for statement in _TABLES.strip().splitlines():
                    run(statement)
                run(f"PRAGMA application_id = {_APPLICATION}")
        if run("PRAGMA application_id").fetchone()[0] != _APPLICATION:
            raise DataFormatError(str(self.path), 0, "a file of shoppers", "another database; take another file")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Shoppers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, user_id: str, interactions: Iterable[Interaction]) -> None:
        """Append to a shopper's interactions, oldest first.

        Raises:
            InputError: When the user id is wrong.
            OSError: When the file cannot be written.
        """
        check_user(user_id)
        bodies = [json.dumps(interaction_fields(one)) for one in interactions]
        with self._reporting(), self._lock, writing(self._connection):
            run = self._connection.execute
            for body in bodies:
                run("INSERT INTO interactions (user_id, body) VALUES (?, ?)", (user_id, body))
            run(
                "DELETE FROM interactions WHERE user_id = ? AND number <= (SELECT number FROM interactions "
                "WHERE user_id = ? ORDER BY number DESC LIMIT 1 OFFSET ?)",
                (user_id, user_id, self._kept),
            )

    def history(self, user_id: str) -> list[Interaction]:
        """All that is kept of a shopper, oldest first; nothing for one who is not known.

        Raises:
            InputError: When the user id is wrong.
            DataFormatError: When the file is damaged.
        """
        check_user(user_id)
        with self._reporting(), self._lock:
            rows = self._connection.execute(
                "SELECT body FROM interactions WHERE user_id = ? ORDER BY number", (user_id,)
            ).fetchall()
        return [make_interaction(json.loads(body)) for (body,) in rows]

    def profile(
        self, user_id: str, query: Query, candidates: Sequence[Listing] = (), *, most: int = 8
    ) -> list[Interaction]:
        """The few interactions that tell most about what a shopper wants now; see `profile`."""
        return profile(self.history(user_id), query, candidates, most=most)

    def forget(self, user_id: str) -> int:
        """Delete everything about a shopper; afterwards the file holds none of it.

        Returns:
            How many interactions there were.

        Raises:
            InputError: When the user id is wrong.
            OSError: When the file cannot be written.
        """
        check_user(user_id)
        with self._reporting(), self._lock:
            with writing(self._connection):
                gone = self._connection.execute("DELETE FROM interactions WHERE user_id = ?", (user_id,)).rowcount
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return gone

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if is_damage(error):
                raise DataFormatError(str(self.path), 0, "a file of shoppers", f"a damaged one ({error})") from None
            raise OSError(f"{self.path}: {error}") from error


def profile(
    history: Sequence[Interaction], query: Query, candidates: Sequence[Listing] = (), *, most: int = 8
) -> list[Interaction]:
    """A short profile: the most useful interactions (`genrank.prompting.history.usefulness`) with different listings.

    Of several interactions with one listing, or with listings of the same title words, the most useful counts.

    Args:
        history: In any order; see `genrank.prompting.history.time_order`.
        query: The query.
        candidates: The listings to be ranked, for their categories.
        most: How many interactions at most.

    Returns:
        Oldest first.

    Raises:
        InputError: When `most` is negative.
    """
    whole_number("most", most, at_least=0)
    ordered = in_time_order(history)
    scores = usefulness(ordered, query, candidates)
    best = sorted(range(len(ordered)), key=lambda place: (-scores[place], -place))
    chosen: list[int] = []
    seen: set[object] = set()
    for place in best:
        listing = ordered[place].listing
        marks = {listing.listing_id, frozenset(words(listing.title))}
        if len(chosen) < most and not marks & seen:
            chosen.append(place)
        seen |= marks
    return [ordered[place] for place in sorted(chosen)]


def check_user(user_id: str) -> None:
    """Check a user id.

    Raises:
        InputError: When it is empty, or not printable text.
    """
    if not isinstance(user_id, str) or not user_id or not user_id.isprintable():
        raise InputError(f"must be text that is printable and not empty, got {shown(user_id)}", field="user_id")
