"""An append-only log of what was shown, at which rank, and what was clicked, put into a cart and bought.

A log is a folder of Parquet parts::

    impressions/*.parquet   one row for each listing of each list that was shown
    events/*.parquet        one row for each click, cart and purchase
    key                     secret of this log, from which pseudonyms of shoppers are made

A call that writes returns once its rows are on the disk, as a part of its own that appears whole or not at all; parts
are never changed. So any number of processes may write at once, and one that is killed loses nothing that was
acknowledged and leaves nothing half written. Every row has a key, and rows that were written twice are read once: a
caller that does not know whether a call succeeded repeats it.

The log holds queries and ids. It holds no histories, no texts of listings, and shoppers only as pseudonyms.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import math
import secrets
import time as clock
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock

from genrank.errors import EngineError, InputError, MissingExtraError
from genrank.files import fingerprint, sync, write_atomically
from genrank.text.clean import clean
from genrank.types import Provenance, RankedItem, Ranking

try:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
except ImportError:
    raise MissingExtraError("pyarrow", "feedback") from None
try:
    import duckdb
except ImportError:
    raise MissingExtraError("duckdb", "feedback") from None

Kind = Literal["click", "cart", "purchase"]
"""What a shopper did with a listing that was shown."""

PART_ROWS = 1_000_000
"""Rows of a part that `FeedbackLog.compact` leaves alone, and the most of one that it writes."""

_TIME = pa.timestamp("us")  # UTC
IMPRESSIONS = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("time", _TIME, nullable=False),
        pa.field("query", pa.string(), nullable=False),
        pa.field("user", pa.string()),
        pa.field("session", pa.string()),
        pa.field("listing_id", pa.string(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("score", pa.float64()),
        pa.field("source_rank", pa.int32()),
        pa.field("propensity", pa.float64()),
        pa.field("team", pa.string()),
        pa.field("model", pa.string(), nullable=False),
        pa.field("adapter", pa.string()),
        pa.field("prompt_hash", pa.string(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
    ],
    metadata={"genrank.feedback": "1"},
)
"""Columns of the impressions; the key is ``(request_id, listing_id)``."""

EVENTS = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("listing_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("time", _TIME, nullable=False),
    ],
    metadata={"genrank.feedback": "1"},
)
"""Columns of the events; the key is ``event_id``."""

_SCHEMAS = {"impressions": IMPRESSIONS, "events": EVENTS}
_UNIQUE = {
    "impressions": "PARTITION BY request_id, listing_id ORDER BY time, rank",
    "events": "PARTITION BY event_id ORDER BY time",
}
_EMPTY = "empty.parquet"  # DuckDB wants at least one file, and takes the columns from it
_TRIES = 20
_FREE_TRIES = 3  # of a writer; then it waits for the maintainer
_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Shown:
    """A list that a shopper was shown.

    Attributes:
        request_id: The list's own id, by which events refer to it.
        items: What was shown, best place first: a `Ranking`, some of its items, or listing ids. Items keep their ranks;
            ids get the ranks 1, 2, 3.
        query: What the shopper typed.
        user_id: The shopper; kept as a pseudonym. None for an unknown one.
        session: The visit; kept as a pseudonym too.
        time: When it was shown; without a time zone it is UTC. None is now.
        propensities: Chance that a shopper looks at each rank, from rank 1 on, over 0 and up to 1, as
            `genrank.search.feedback.bias.estimate` finds it. None where it is not known.
        teams: By listing id, whose choice the listing was, for interleaving; listings may be missing.
        provenance: How the order was made; None takes that of the `Ranking`.
    """

    request_id: str
    items: Ranking | Sequence[RankedItem] | Sequence[str]
    query: str
    user_id: str | None = None
    session: str | None = None
    time: datetime | None = None
    propensities: Sequence[float] | None = None
    teams: Mapping[str, str] | None = None
    provenance: Provenance | None = None


@dataclass(frozen=True, slots=True)
class FeedbackEvent:
    """What a shopper did with a listing that was shown.

    Attributes:
        request_id: The list's id.
        listing_id: The listing's id.
        kind: ``click``, ``cart`` or ``purchase``.
        time: When; without a time zone it is UTC. None is now.
        event_id: The event's own id. None makes one from the other fields: to repeat a call, pass the same time.
    """

    request_id: str
    listing_id: str
    kind: Kind
    time: datetime | None = None
    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What `FeedbackLog.forget` removed.

    Attributes:
        impressions: Rows of impressions.
        events: Rows of events.
    """

    impressions: int
    events: int


class FeedbackLog:
    """The log in one folder; any number of threads and processes may use it at once."""

    def __init__(self, folder: str | Path) -> None:
        """Open a log, or begin one.

        Args:
            folder: Its folder; created if needed. It must be on a file system where a file can be renamed in one step.

        Raises:
            OSError: When it cannot be read or written.
        """
        self.folder: Path = Path(folder).absolute()
        for name, schema in _SCHEMAS.items():
            (self.folder / name).mkdir(parents=True, exist_ok=True)
            if not (self.folder / name / _EMPTY).exists():
                _write(self.folder / name / _EMPTY, schema.empty_table())
        self._key = self._secret()

    def shown(
        self,
        items: Ranking | Sequence[RankedItem] | Sequence[str],
        *,
        request_id: str,
        query: str,
        user_id: str | None = None,
        session: str | None = None,
        time: datetime | None = None,
        propensities: Sequence[float] | None = None,
        teams: Mapping[str, str] | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        """Record a list that a shopper was shown. See `Shown` for the arguments, `write` for the rest."""
        self.write(
            [Shown(request_id, items, query, user_id, session, time, propensities, teams, provenance)],
        )

    def event(
        self,
        request_id: str,
        listing_id: str,
        kind: Kind,
        *,
        time: datetime | None = None,
        event_id: str | None = None,
    ) -> None:
        """Record what a shopper did with a listing. See `FeedbackEvent` for the arguments, `write` for the rest."""
        self.write(events=[FeedbackEvent(request_id, listing_id, kind, time, event_id)])

    def write(self, lists: Iterable[Shown] = (), events: Iterable[FeedbackEvent] = ()) -> None:
        """Record many lists and events at once, as one part of each.

        When it returns, all of them are on the disk. When it raises or the process dies, it is unknown which of the two
        parts were written; repeating the call adds nothing twice.

        Args:
            lists: What was shown.
            events: What shoppers did, with these lists or others.

        Raises:
            InputError: When a field is wrong; nothing is written then.
            OSError: When it cannot be written.
        """
        rows = [row for i, one in enumerate(lists) for row in self._impressions(one, f"lists[{i}]")]
        happened = [_event_row(one, f"events[{i}]") for i, one in enumerate(events)]
        for name, found in (("impressions", rows), ("events", happened)):
            if found:
                self._add(name, pa.Table.from_pylist(found, schema=_SCHEMAS[name]))

    def connection(self) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection in memory with three views, each row once.

        - ``impressions``: the columns of `IMPRESSIONS`.
        - ``events``: the columns of `EVENTS`.
        - ``feedback``: the columns of ``impressions``, and ``clicks``, ``carts`` and ``purchases``, the numbers of
          events of that listing in that list.

        Times are UTC. Each query sees the parts that are there when it starts. A query during which `compact` or
        `forget` removes a part may raise ``duckdb.IOException``: run it again, as `query` does.
        """
        connection = duckdb.connect()
        for name in _SCHEMAS:
            connection.execute(f"CREATE VIEW {name} AS {_unique(name, _pattern(self.folder / name) + '/*.parquet')}")
        connection.execute(
            """CREATE VIEW feedback AS
            SELECT impressions.*, coalesce(clicks, 0) AS clicks, coalesce(carts, 0) AS carts,
                coalesce(purchases, 0) AS purchases
            FROM impressions LEFT JOIN (
                SELECT request_id, listing_id, count(*) FILTER (kind = 'click') AS clicks,
                    count(*) FILTER (kind = 'cart') AS carts, count(*) FILTER (kind = 'purchase') AS purchases
                FROM events GROUP BY request_id, listing_id
            ) USING (request_id, listing_id)"""
        )
        return connection

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """The result of one SQL query over the views of `connection`.

        Args:
            sql: The query; ``?`` stands for a parameter.
            parameters: Values of the parameters.

        Raises:
            EngineError: When parts kept disappearing while they were read.
            duckdb.Error: When DuckDB refuses the query.
        """
        for _ in range(_TRIES):
            # the views look at the parts too
            with contextlib.suppress(duckdb.IOException), self.connection() as connection:
                return connection.sql(sql, params=list(parameters)).to_arrow_table()
        raise EngineError(f"the parts of {self.folder} changed {_TRIES} times while they were read; ask again later")

    def compact(self) -> int:
        """Merge small parts, and drop repeated rows in them.

        Other processes may write and read meanwhile. If it is killed, rows may be there in two parts, which readers see
        once and the next call merges. Two calls take turns.

        Returns:
            How many parts were merged.

        Raises:
            OSError: When it cannot be written.
        """
        merged = 0
        with self._maintenance():
            for name in _SCHEMAS:
                small = [path for path in self._parts(name) if pq.read_metadata(path).num_rows < PART_ROWS]
                if len(small) < 2:
                    continue
                with duckdb.connect() as connection:
                    found = connection.sql(f"{_unique(name, *map(_pattern, small))} ORDER BY time")
                    table = found.to_arrow_table()
                self._replace(name, small, table.cast(_SCHEMAS[name]))
                merged += len(small)
        return merged

    def forget(self, user_id: str) -> Forgotten:
        """Remove a shopper: afterwards no file of the log holds what was acknowledged of them before the call.

        That is every list that they were shown, and the events of those lists. If the call is interrupted, repeat it.

        Args:
            user_id: As it was given to `shown`.

        Raises:
            InputError: When the id is empty.
            OSError: When it cannot be written.
        """
        user = self._pseudonym(user_id, "user_id")
        with self._maintenance():
            parts = {
                path: pq.read_table(path, columns=["user", "request_id"], partitioning=None)
                for path in self._parts("impressions")
            }
            own = {path: pc.equal(table["user"], user) for path, table in parts.items()}
            requests = pa.concat_arrays(
                [chunk for path, table in parts.items() for chunk in table["request_id"].filter(own[path]).chunks]
                or [pa.array([], pa.string())]
            )
            # the events first: should this be killed, the lists still say which events they are
            events = self._remove("events", "request_id", requests)
            return Forgotten(self._remove("impressions", "user", pa.array([user])), events)

    def _remove(self, name: str, column: str, values: Any) -> int:
        """Remove the rows with one of these values from all parts; returns their number."""
        removed = 0
        for path in self._parts(name):
            table = pq.read_table(path, schema=_SCHEMAS[name], partitioning=None)
            kept = table.filter(pc.invert(pc.is_in(table[column], value_set=values)))
            if len(kept) < len(table):
                self._replace(name, [path], kept)
                removed += len(table) - len(kept)
        return removed

    @contextlib.contextmanager
    def _maintenance(self) -> Iterator[None]:
        """One maintainer at a time; files that dead writers left are removed, before and after."""
        with FileLock(self.folder / _LOCK):
            self._sweep()
            yield
            self._sweep()

    def _sweep(self) -> None:
        # a writer that is alive writes its part again (`_write`)
        for name in _SCHEMAS:
            for path in (self.folder / name).glob(".*.part"):
                path.unlink(missing_ok=True)

    def _parts(self, name: str) -> list[Path]:
        return sorted(path for path in (self.folder / name).glob("*.parquet") if path.name != _EMPTY)

    def _add(self, name: str, table: Any) -> None:
        _write(self.folder / name / f"{clock.time_ns():020d}-{secrets.token_hex(8)}.parquet", table)

    def _replace(self, name: str, old: Sequence[Path], table: Any) -> None:
        """Write a table and remove the parts that it replaces; in between, rows are there twice, and read once."""
        for start in range(0, len(table), PART_ROWS):
            self._add(name, table.slice(start, PART_ROWS))
        for path in old:
            path.unlink()
        sync(self.folder / name)

    def _secret(self) -> bytes:
        path = self.folder / "key"
        if not path.exists():
            with FileLock(self.folder / ".key.lock"):
                if not path.exists():
                    with write_atomically(path) as part:
                        part.chmod(0o600)
                        part.write_bytes(secrets.token_bytes(32))
        return path.read_bytes()

    def _pseudonym(self, value: str, field: str) -> str:
        return hmac.digest(self._key, _text(value, field).encode(), hashlib.sha256).hex()[:32]

    def _impressions(self, one: Shown, field: str) -> Iterator[dict[str, Any]]:
        provenance = one.provenance
        if provenance is None:
            provenance = one.items.provenance if isinstance(one.items, Ranking) else Provenance()
        if isinstance(one.items, str):
            raise InputError("must be a ranking or a list, got text; put the id into a list", field=f"{field}.items")
        if not len(one.items):
            raise InputError("nothing was shown; leave the list out", field=f"{field}.items")
        if not isinstance(one.query, str):
            raise InputError(f"must be text, got {type(one.query).__name__}", field=f"{field}.query")
        chances = list(one.propensities) if one.propensities is not None else None
        for i, chance in enumerate(chances or ()):
            if not 0 < chance <= 1:
                raise InputError(f"must be over 0 and up to 1, got {chance}", field=f"{field}.propensities[{i}]")
        shared = {
            "request_id": _text(one.request_id, f"{field}.request_id"),
            "time": _moment(one.time, f"{field}.time"),
            "query": clean(one.query),
            "user": None if one.user_id is None else self._pseudonym(one.user_id, f"{field}.user_id"),
            "session": None if one.session is None else self._pseudonym(one.session, f"{field}.session"),
            "model": provenance.model,
            "adapter": provenance.adapter,
            "prompt_hash": provenance.prompt_hash,
            "outcome": provenance.outcome,
        }
        seen: set[str] = set()
        for place, item in enumerate(one.items):
            ranked = item if isinstance(item, RankedItem) else None
            listing_id = _text(ranked.listing_id if ranked else item, f"{field}.items[{place}]")
            if listing_id in seen:
                raise InputError(f"the id {listing_id!r} comes twice", field=f"{field}.items[{place}]")
            seen.add(listing_id)
            rank = ranked.rank if ranked else place + 1
            if chances is not None and rank > len(chances):
                raise InputError(f"there is none for rank {rank}; give {rank} or more", field=f"{field}.propensities")
            yield shared | {
                "listing_id": listing_id,
                "rank": rank,
                "score": ranked.score if ranked and math.isfinite(ranked.score) else None,
                "source_rank": ranked.source_rank if ranked else None,
                "propensity": chances[rank - 1] if chances is not None else None,
                "team": (one.teams or {}).get(listing_id),
            }


def _event_row(one: FeedbackEvent, field: str) -> dict[str, Any]:
    if one.kind not in get_args(Kind):
        raise InputError(f"must be one of {', '.join(get_args(Kind))}, got {one.kind!r}", field=f"{field}.kind")
    row = {
        "request_id": _text(one.request_id, f"{field}.request_id"),
        "listing_id": _text(one.listing_id, f"{field}.listing_id"),
        "kind": one.kind,
        "time": _moment(one.time, f"{field}.time"),
    }
    if one.event_id is not None:
        return {"event_id": _text(one.event_id, f"{field}.event_id"), **row}
    return {"event_id": fingerprint([str(value) for value in row.values()])[:32], **row}


def _text(value: object, field: str) -> str:
    if not isinstance(value, str) or not value:
        raise InputError(f"must be text that is not empty, got {value!r}", field=field)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"must be valid Unicode, got {value!r}", field=field) from None
    return value


def _moment(time: datetime | None, field: str) -> datetime:
    """The time in UTC, without its zone."""
    if time is None:
        time = datetime.now(UTC)
    if not isinstance(time, datetime):
        raise InputError(f"must be a datetime, got {type(time).__name__}", field=field)
    return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time


def _write(path: Path, table: Any) -> None:
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: its folder is gone")
    for _ in range(_FREE_TRIES):
        with contextlib.suppress(FileNotFoundError):  # a maintainer took the unfinished file for a dead writer's
            _write_once(path, table)
            return
    with FileLock(path.parent.parent / _LOCK):  # no maintainer works now
        _write_once(path, table)


def _write_once(path: Path, table: Any) -> None:
    with write_atomically(path) as part:
        pq.write_table(table, part, compression="zstd")


def _unique(name: str, *patterns: str) -> str:
    """SQL for all rows of some parts, each once."""
    files = ", ".join("'" + pattern.replace("'", "''") + "'" for pattern in patterns)
    rows = f"read_parquet([{files}], hive_partitioning = false)"
    return f"SELECT * FROM {rows} QUALIFY row_number() OVER ({_UNIQUE[name]}) = 1"


def _pattern(path: Path) -> str:
    """A path for DuckDB, in which no sign is a wildcard."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in path.as_posix())
