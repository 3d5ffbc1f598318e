"""A catalogue's index: finds the candidates of a query, by words, by meaning, or both.

It is a folder with one SQLite database. SQLite keeps the listings, their words (FTS5, BM25) and their vectors, makes
each `Index.add` atomic, and lets many processes read while one writes. What was added is found by the next search in
any process. A process that is killed loses nothing that `Index.add` had returned from; after a power cut the last
additions may be missing, but the index is whole.

Vectors are compared exactly, in memory: each process that searches by meaning holds all of them, 4 bytes a dimension.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np

from genrank.errors import ConfigError, DataFormatError, InputError, shown
from genrank.inputs import items, make_listings, make_query, whole_number
from genrank.search.bm25 import FIELDS, TextField, listing_text, tokenise
from genrank.search.dense import TextEncoder, encoded_text
from genrank.search.filters import Filters, value_parts
from genrank.search.fusion import reciprocal_rank_fusion
from genrank.search.sqlite import connect, is_damage, writing
from genrank.search.vectors import EncodeTexts, ListingEncoder, VectorTable
from genrank.types import Candidate, Listing, Query, make_listing

Mode = Literal["fused", "text", "dense"]
"""How listings are found: by words (BM25), by vectors, or by both, fused."""

FORMAT = 1
"""Version of the database's tables."""

MOST_CHARACTERS = 1000
MOST_WORDS = 64
"""What comes after so many characters of a query, or after so many different words, is not searched for."""

MOST_SCORED = 5000
"""Where more listings share a word with the query, those that share only its most frequent words are left out, if
there are enough others. The scores stay those of BM25 over all words."""

_FILE = "index.sqlite"
_APPLICATION = 0x67726E6B  # "grnk", in the file's header
_LEAST_DEPTH = 100  # of each ranking that is fused
_LOGGER = logging.getLogger(__name__)

# a number is never given twice: a changed listing gets a new one, so what is new has numbers greater than the last one.
# listings is narrow, for filters; texts are blobs, because a listing's text may hold what SQLite's text cannot
_TABLES = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE listings (
    number INTEGER PRIMARY KEY AUTOINCREMENT, listing_id TEXT NOT NULL UNIQUE, price REAL, currency BLOB,
    category BLOB, brand BLOB, in_stock INTEGER, seller_id BLOB);
CREATE TABLE bodies (number INTEGER PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE attributes (number INTEGER, name BLOB, value BLOB, PRIMARY KEY (number, name, value)) WITHOUT ROWID;
CREATE TABLE vectors (number INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE VIRTUAL TABLE words USING fts5(cut, tokenize="ascii tokenchars '+#.*'");
CREATE VIRTUAL TABLE vocabulary USING fts5vocab(words, row);
CREATE TRIGGER forget AFTER DELETE ON listings BEGIN
    DELETE FROM bodies WHERE number = old.number;
    DELETE FROM attributes WHERE number = old.number;
    DELETE FROM vectors WHERE number = old.number;
    DELETE FROM words WHERE rowid = old.number;
END;
"""


class Index:
    """A catalogue's index; see the module's text.

    Make one with `Index.create` or `Index.open`, and close it, or use it as a context manager. Threads may share one;
    they take turns. A process that forks opens its own afterwards.

    Attributes:
        path: The folder.
        fields: The fields whose words are searched.
        encoded_by: Fingerprint of the encoder that made the vectors; empty for an index without vectors.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, encoder: ListingEncoder | None) -> None:
        """Use `Index.create` or `Index.open`."""
        self.path = path
        self._connection = connection
        self._encoder = encoder
        self._lock = threading.RLock()
        self._told = False
        self._vectors: VectorTable | None = None
        settings = dict(connection.execute("SELECT name, value FROM settings"))
        self.fields: tuple[TextField, ...] = tuple(json.loads(settings["fields"]))
        self._stem = settings["stem"] == "1"
        self.encoded_by: str = settings["encoder"]

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        encoder: TextEncoder | EncodeTexts | None = None,
        fields: Collection[TextField] = FIELDS,
        stem: bool = True,
    ) -> Index:
        """Make an empty index.

        Args:
            path: A folder, which is made if it is missing.
            encoder: What turns texts into vectors: `genrank.search.dense.Encoder`, or any function of texts that
                returns ``[n, d]``. None for an index of words alone.
            fields: The fields whose words are searched, from `genrank.search.bm25.FIELDS`.
            stem: Whether "dresses" finds "dress"; see `genrank.search.bm25.tokenise`.

        Raises:
            InputError: When a field is wrong, or the folder holds an index already.
            OSError: When it cannot be written.
        """
        fields = list(fields)
        for name in fields:
            if name not in FIELDS:
                raise InputError(f"no such text field; use {', '.join(FIELDS)}, got {shown(name)}", field="fields")
        folder, wrapped = Path(path), ListingEncoder(encoder) if encoder is not None else None
        folder.mkdir(parents=True, exist_ok=True)
        settings = {"fields": json.dumps(fields), "stem": str(int(stem))}
        settings["encoder"] = wrapped.fingerprint if wrapped else ""
        with _reporting(folder):
            connection = _connect(folder, make=True)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("BEGIN IMMEDIATE")
                if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                    raise InputError(f"{folder} holds an index already; open it, or delete the folder", field="path")
                for statement in _statements(_TABLES):
                    connection.execute(statement)
                connection.executemany("INSERT INTO settings VALUES (?, ?)", settings.items())
                connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                connection.execute(f"PRAGMA user_version = {FORMAT}")
                connection.execute("COMMIT")
                return cls(folder, connection, wrapped)
            except BaseException:
                connection.close()
                raise

    @classmethod
    def open(cls, path: str | Path, *, encoder: TextEncoder | EncodeTexts | None = None) -> Index:
        """Open an index.

        Args:
            path: Its folder.
            encoder: The encoder that it was made with. Without it, an index with vectors is searched by words alone,
                and nothing can be added.

        Raises:
            InputError: When there is no index.
            ConfigError: When its vectors are another encoder's, or it has none.
            DataFormatError: When it is damaged, not genrank's, or another version's.
        """
        folder, wrapped = Path(path), ListingEncoder(encoder) if encoder is not None else None
        if not cls.exists(folder):
            raise InputError(f"no index in {folder}; make one with genrank index, or Index.create", field="path")
        with _reporting(folder):
            connection = _connect(folder)
            try:
                _check_stamp(folder, connection)
                index = cls(folder, connection, wrapped)
            except BaseException:
                connection.close()
                raise
        if wrapped is not None and wrapped.fingerprint != index.encoded_by:
            index.close()
            made = f"the vectors of {index.encoded_by}" if index.encoded_by else "no vectors"
            raise ConfigError(
                f"{folder} holds {made}, and the encoder is {wrapped.fingerprint}; open it with the encoder that it "
                "was made with, or make it again with this one"
            )
        return index

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Whether a folder holds an index, or at least a file of that name."""
        return (Path(path) / _FILE).is_file()

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()
            self._vectors = None

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, listings: Iterable[Listing | Mapping[str, Any]]) -> list[Listing]:
        """Insert listings, or replace those with the same ids: all of them or, after an error, none.

        Once this returns, searches in every process find them.

        Args:
            listings: Of several with one id, the last counts.

        Returns:
            Those that are new or changed; the others are left as they are. Give them to `genrank.Reranker.warm`, and
            their kept heads are renewed.

        Raises:
            InputError: When a listing is wrong.
            ConfigError: When the index has vectors, and was opened without its encoder.
            DataFormatError: When the index is damaged.
            ModelError: When the encoder fails.
            OSError: When it cannot be written, or another process has been writing for a minute.
        """
        if self.encoded_by and self._encoder is None:
            raise ConfigError(f"{self.path} holds vectors of {self.encoded_by}; open it with that encoder to add to it")
        given = list(items(listings, "listings", "listings"))
        for i, one in enumerate(given):
            if isinstance(one, str):
                raise InputError(f"must be a Listing or dict, got the text {shown(one)}", field=f"listings[{i}]")
        bodies = {listing.listing_id: (listing, _to_json(listing)) for listing in make_listings(given)}
        with self._lock, _reporting(self.path):
            known = self._bodies(bodies)
        changed = [pair for listing_id, pair in bodies.items() if known.get(listing_id) != pair[1]]
        if not changed:
            return []
        # slow, so searches of other threads need not wait for it
        words = [self._words(listing_text(listing, self.fields)) for listing, _ in changed]
        vectors: Any = [None] * len(changed)
        if self._encoder is not None:
            vectors = self._encoder.encode([encoded_text(listing) for listing, _ in changed])
        with self._lock, _reporting(self.path), writing(self._connection):
            if self._encoder is not None:
                self._check_dimension(len(vectors[0]))
            for (listing, body), found, vector in zip(changed, words, vectors, strict=True):
                self._put(listing, body, found, vector)
        return [listing for listing, _ in changed]

    def remove(self, listing_ids: Iterable[str]) -> int:
        """Remove listings: all of them or, after an error, none.

        Args:
            listing_ids: Ids; those that are not in the index are passed over.

        Returns:
            How many were removed.
        """
        asked = _ids(listing_ids)
        with self._lock, _reporting(self.path), writing(self._connection):
            return self._connection.execute(
                "DELETE FROM listings WHERE listing_id IN (SELECT value FROM json_each(?))", (json.dumps(asked),)
            ).rowcount

    def get(self, listing_ids: Iterable[str]) -> list[Listing]:
        """Listings by their ids, in the order of these; ids that are not in the index are left out."""
        asked = _ids(listing_ids)
        with self._lock, _reporting(self.path):
            found = self._bodies(asked)
        return [_from_json(found[listing_id]) for listing_id in asked if listing_id in found]

    def __len__(self) -> int:
        with self._lock, _reporting(self.path):
            return int(self._connection.execute("SELECT count(*) FROM listings").fetchone()[0])

    def __iter__(self) -> Iterator[Listing]:
        """All listings as they are now, in the order in which they were last changed."""
        with _reporting(self.path), contextlib.closing(_connect(self.path)) as connection:
            for (body,) in connection.execute("SELECT body FROM bodies ORDER BY number"):
                yield _from_json(body)

    def compact(self) -> None:
        """Merge the parts of the word index, which many additions have split; searches are then a little faster."""
        with self._lock, _reporting(self.path):
            with writing(self._connection):
                self._connection.execute("INSERT INTO words (words) VALUES ('optimize')")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def search(
        self, text: str | Query, *, filters: Filters | None = None, k: int = 100, mode: Mode = "fused"
    ) -> list[Candidate]:
        """Find the candidates of a query.

        Args:
            text: What the shopper typed; any text, nothing in it is syntax. Words are looked for in its first
                `MOST_CHARACTERS` characters, and the first `MOST_WORDS` different ones count.
            filters: Conditions that each candidate meets.
            k: Greatest number of candidates.
            mode: ``text``: listings that share a word with the query, by BM25 (see `MOST_SCORED`).
                ``dense``: the listings with the nearest vectors, by their cosine. ``fused``: both, by
                `reciprocal_rank_fusion`; without an encoder this is ``text``, which the log says once.

        Returns:
            Candidates, best first, with the score and the 1-based rank.

        Raises:
            InputError: When an argument is wrong, or ``dense`` is asked of an index without an encoder.
            DataFormatError: When the index is damaged.
        """
        query = make_query(text).text
        k = whole_number("k", k, 1)
        if mode not in get_args(Mode):
            raise InputError(f"must be one of {', '.join(get_args(Mode))}, got {shown(mode)}", field="mode")
        if filters is not None and not isinstance(filters, Filters):
            raise InputError(f"must be Filters, got {shown(filters)}", field="filters")
        if self._encoder is None and mode != "text":
            mode = self._without_encoder(mode)
        vector = self._encoder.encode([query], queries=True)[0] if self._encoder and mode != "text" else None
        condition = self._condition(filters or Filters())
        with self._lock, _reporting(self.path), self._reading():
            depth = max(k, _LEAST_DEPTH) if mode == "fused" else k
            by_text = self._by_text(query, condition, depth) if mode != "dense" else {}
            by_vector = self._by_vector(vector, condition, depth) if vector is not None else {}
            scores = reciprocal_rank_fusion([by_text, by_vector]) if mode == "fused" else by_text or by_vector
            best = list(scores)[:k]
            listings = {one: _from_json(body) for one, body in self._bodies(best).items()}
        return [Candidate(listings[one], score=scores[one], rank=rank) for rank, one in enumerate(best, start=1)]

    def _without_encoder(self, mode: Mode) -> Mode:
        if mode == "dense":
            raise InputError("dense needs an index made and opened with an encoder; use text", field="mode")
        if not self._told:
            self._told = True
            _LOGGER.warning("%s is open without an encoder, so fused searches words alone", self.path)
        return "text"

    def _words(self, text: str) -> list[str]:
        return tokenise(text, stem=self._stem)

    def _by_text(self, query: str, condition: _Condition, depth: int) -> dict[str, float]:
        words = list(dict.fromkeys(self._words(query[:MOST_CHARACTERS])))[:MOST_WORDS]
        if not words:
            return {}
        rare, frequent = self._split(words)
        if frequent:
            # each listing meets one side of the OR, so each of its words counts once, as in BM25
            rare_words, frequent_words = _any_of(rare), _any_of(frequent)
            either = f"(({rare_words}) AND ({frequent_words})) OR (({rare_words}) NOT ({frequent_words}))"
            if len(found := self._matching(either, condition, depth)) == depth:
                return found
        return self._matching(_any_of(words), condition, depth)

    def _split(self, words: Sequence[str]) -> tuple[list[str], list[str]]:
        """The query's rarest words, which about `MOST_SCORED` listings have, and the others."""
        count = "SELECT doc FROM vocabulary WHERE term = ?"
        held = {word: (self._connection.execute(count, (word,)).fetchone() or (0,))[0] for word in words}
        known = sorted((word for word in words if held[word]), key=held.__getitem__) or list(words)
        scored, cut = held[known[0]], 1
        while cut < len(known) and scored + held[known[cut]] <= MOST_SCORED:
            scored += held[known[cut]]
            cut += 1
        return known[:cut], known[cut:]

    def _matching(self, expression: str, condition: _Condition, depth: int) -> dict[str, float]:
        found = self._connection.execute(
            # CROSS JOIN: words first, whatever the planner thinks of the filters
            "SELECT listing_id, -rank FROM words CROSS JOIN listings ON number = words.rowid "
            f"WHERE words MATCH ? AND {condition.sql} ORDER BY rank LIMIT ?",
            (expression, *condition.values, depth),
        ).fetchall()
        return dict(sorted(found, key=lambda row: (-row[1], row[0])))

    def _by_vector(self, vector: Any, condition: _Condition, depth: int) -> dict[str, float]:
        """The nearest listings that exist and meet the condition."""
        table = self._refreshed(len(vector))
        if table is None:
            return {}
        scores, numbers = table.scores(vector), table.numbers
        first = depth * (2 if condition.sql == _ALL else 20)
        while True:
            near = np.argpartition(scores, -first)[-first:] if first < len(scores) else np.arange(len(scores))
            asked = json.dumps(numbers[near].tolist()) if first < len(numbers) else None
            only = "number IN (SELECT value FROM json_each(?)) AND " if asked else ""
            found = self._connection.execute(
                f"SELECT number, listing_id FROM listings WHERE {only}{condition.sql}",
                (*([asked] if asked else []), *condition.values),
            ).fetchall()
            if asked is None or len(found) >= depth:
                break
            first = len(numbers)
        places = np.searchsorted(numbers, np.array([number for number, _ in found], dtype=np.int64))
        ranked = sorted((-float(scores[place]), one) for place, (_, one) in zip(places, found, strict=True))
        return {listing_id: -score for score, listing_id in ranked[:depth]}

    def _refreshed(self, dimension: int) -> VectorTable | None:
        if self._vectors is None:
            if self._dimension() is None:
                return None
            self._check_dimension(dimension)
            self._vectors = VectorTable(dimension)
        self._vectors.refresh(
            lambda after: self._connection.execute(
                "SELECT number, vector FROM vectors WHERE number > ? ORDER BY number", (after,)
            ),
            lambda: [number for (number,) in self._connection.execute("SELECT number FROM listings")],
        )
        return self._vectors

    def _dimension(self) -> int | None:
        found = self._connection.execute("SELECT value FROM settings WHERE name = 'dimension'").fetchone()
        return int(found[0]) if found else None

    def _check_dimension(self, dimension: int) -> None:
        """Compare the vectors' dimension with the index's, which the first vectors decide."""
        known = self._dimension()
        if known is None:
            self._connection.execute("INSERT INTO settings VALUES ('dimension', ?)", (str(dimension),))
        elif known != dimension:
            raise ConfigError(f"{self.path} holds vectors of {known} numbers, and the encoder gives {dimension}")

    def _condition(self, filters: Filters) -> _Condition:
        start = _path(filters.category)
        compared = {
            "price >= ?": filters.price_min,
            "price <= ?": filters.price_max,
            "currency = ?": _blob(filters.currency),
            "brand = ?": _blob(filters.brand),
            "seller_id = ?": _blob(filters.seller_id),
            "in_stock = ?": filters.in_stock,
            f"substr(category, 1, {len(start)}) = ?": start or None,
        }
        sql = [condition for condition, value in compared.items() if value is not None]
        values: list[Any] = [value for value in compared.values() if value is not None]
        for name, value in filters.attributes.items():
            sql.append(
                "EXISTS (SELECT 1 FROM attributes AS a WHERE a.number = listings.number AND name = ? AND value = ?)"
            )
            values += [_bytes(name), _blob(value)]
        groups = [words for text in filters.without_words if (words := self._words(text))]
        if groups:
            sql.append("number NOT IN (SELECT rowid FROM words WHERE words MATCH ?)")
            values.append(" OR ".join(f"({_all_of(words)})" for words in groups))
        if filters.without_ids:
            sql.append("listing_id NOT IN (SELECT value FROM json_each(?))")
            values.append(json.dumps(_possible(filters.without_ids)))
        return _Condition(" AND ".join(sql) or _ALL, values)

    def _bodies(self, listing_ids: Iterable[str]) -> dict[str, str]:
        """The JSON of those listings that are in the index, by their ids, in any order."""
        return dict(
            self._connection.execute(
                "SELECT listing_id, body FROM listings JOIN bodies USING (number) "
                "WHERE listing_id IN (SELECT value FROM json_each(?))",
                (json.dumps(list(listing_ids)),),
            )
        )

    def _put(self, listing: Listing, body: str, words: list[str], vector: Any) -> None:
        run = self._connection.execute
        price = listing.price
        run("DELETE FROM listings WHERE listing_id = ?", (listing.listing_id,))
        number = run(
            "INSERT INTO listings (listing_id, price, currency, category, brand, in_stock, seller_id) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                listing.listing_id,
                price.amount if price else None,
                _blob(price.currency) if price else None,
                _path(listing.category),
                _blob(listing.brand),
                listing.in_stock,
                _blob(listing.seller_id),
            ),
        ).lastrowid
        run("INSERT INTO bodies VALUES (?, ?)", (number, body))
        run("INSERT INTO words (rowid, cut) VALUES (?, ?)", (number, " ".join(words)))
        for name, value in listing.attributes.items():
            for part in {value, *value_parts(value)} - {""}:
                run("INSERT INTO attributes VALUES (?, ?, ?)", (number, _bytes(name), _bytes(part)))
        if vector is not None:
            run("INSERT INTO vectors VALUES (?, ?)", (number, vector.astype("<f4").tobytes()))

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """One state of the index for several queries."""
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


class _Condition:
    """Part of a WHERE clause over the table ``listings``, and its values."""

    def __init__(self, sql: str, values: Sequence[Any]) -> None:
        self.sql = sql
        self.values = values


_ALL = "1"


def _connect(folder: Path, *, make: bool = False) -> sqlite3.Connection:
    return connect(folder / _FILE, f"cache_size = {-(1 << 16)}", make=make)


def _check_stamp(folder: Path, connection: sqlite3.Connection) -> None:
    stamp = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if stamp != _APPLICATION:
        raise DataFormatError(
            str(folder / _FILE), 0, "an index of genrank", "none, or one half made; take another folder"
        )
    if version != FORMAT:
        found = f"version {version}; make it again with genrank index"
        raise DataFormatError(str(folder / _FILE), 0, f"an index of version {FORMAT}", found)


@contextlib.contextmanager
def _reporting(folder: Path) -> Iterator[None]:
    """Turn SQLite's errors into those that are documented."""
    try:
        yield
    except sqlite3.Error as error:
        file = str(folder / _FILE)
        if is_damage(error) or "no such table" in str(error):
            found = f"a damaged file ({error}); delete the folder, and make it again with genrank index"
            raise DataFormatError(file, 0, "an index of genrank", found) from None
        if "no such module: fts5" in str(error):
            raise ConfigError("this Python's SQLite has no FTS5; use a Python whose sqlite3 has it") from None
        if isinstance(error, sqlite3.ProgrammingError):
            raise InputError(f"the index cannot be used: {error}; open it again", field="index") from None
        raise OSError(f"{file}: {error}") from error


def _statements(script: str) -> Iterator[str]:
    """The statements of a script; ``executescript`` would commit before it runs them."""
    part = ""
    for line in script.splitlines():
        part += line + "\n"
        if sqlite3.complete_statement(part):
            yield part
            part = ""


def _to_json(listing: Listing) -> str:
    """A listing as JSON, without default values; lone surrogates are escaped, so that SQLite can store it."""
    kept = {name: value for name, value in vars(listing).items() if value is not None and value not in ("", (), {})}
    if listing.price is not None:
        kept["price"] = vars(listing.price)
    text = json.dumps(kept, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(kept)
    return text


def _from_json(body: str) -> Listing:
    return make_listing(json.loads(body))


def _ids(listing_ids: Iterable[str]) -> list[str]:
    if isinstance(listing_ids, str):
        raise InputError(f"must be a list of ids, got the text {shown(listing_ids)}", field="listing_ids")
    found = list(listing_ids)
    for i, one in enumerate(found):
        if not isinstance(one, str):
            raise InputError(f"must be text, got {shown(one)}", field=f"listing_ids[{i}]")
    return _possible(found)


def _possible(listing_ids: Iterable[str]) -> list[str]:
    """Those that a listing can have; SQLite ends a text of JSON at a NUL, and would find another id."""
    return [one for one in listing_ids if one.isprintable()]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _blob(text: str | None) -> bytes | None:
    """Text as bytes; None where a listing does not say, or a filter does not ask."""
    return _bytes(text) if text else None


def _path(category: Sequence[str]) -> bytes:
    """A category path so that a path's beginning is the beginning of its bytes: each part after its length."""
    return b"".join(b"%d:%b" % (len(part), part) for part in map(_bytes, category))


def _any_of(words: Sequence[str]) -> str:
    return " OR ".join(f'"{word}"' for word in words)


def _all_of(words: Sequence[str]) -> str:
    return " AND ".join(f'"{word}"' for word in words)
