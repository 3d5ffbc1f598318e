"""The store of suggestions: one SQLite database beside the catalogue's index.

Each suggestion has a key for its text and, in Chinese, two for its pinyin. A keystroke reads one range of keys by their
weights; for short prefixes an index of SQLite has them in that order, and long ones are sorted. So nothing is loaded
beforehand, all processes share the memory, and an update is seen by the next keystroke in any of them. A trie in memory
(marisa-trie) has no order by weight, so a short prefix takes longer, and each change rebuilds it in every process.
symspellpy corrects whole words only, not half a word (docs/results/completion.md).
"""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from genrank.blending import is_weight
from genrank.engines.base import Engine
from genrank.errors import DataFormatError, InputError, shown
from genrank.files import fingerprint
from genrank.inputs import whole_number
from genrank.search.completion.judging import WORDING, judge_texts
from genrank.search.completion.keys import misspelt, sound, sounds, typed_key
from genrank.search.completion.sources import Counted, asked_queries, catalogue_phrases
from genrank.search.completion.suggestion import LONGEST, Match, Source, Suggestion, suggestible
from genrank.search.index import Index
from genrank.search.sqlite import connect, is_damage, writing
from genrank.types import Listing

if TYPE_CHECKING:  # suggestions from a catalogue need neither pyarrow nor DuckDB
    from genrank.search.feedback.log import FeedbackLog

FORMAT = 1
"""Version of the database's tables."""

_FILE = "completion.sqlite"
_APPLICATION = 0x67726E63  # "grnc", in the file's header
_DEPTH = 3  # characters of a prefix whose keys are kept in the order of their weights
_LAST = "\U0010ffff"
_LONGEST_CORRECTED = 40  # characters
_AT_ONCE = 64  # texts in one call of the engine

# shares of a weight, and what a phrase of the catalogue counts by its source
_ASKED = 0.75
_WORTH: dict[Source, float] = {"category": 1.0, "brand": 0.9, "attribute": 0.8, "title": 0.6}

_TABLES = (
    "CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE texts (number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, text TEXT NOT NULL,
    asked REAL NOT NULL, listings REAL NOT NULL, listed TEXT NOT NULL, weight REAL NOT NULL)""",
    "CREATE TABLE keys (key TEXT, number INTEGER, weight REAL NOT NULL, PRIMARY KEY (key, number)) WITHOUT ROWID",
    "CREATE TABLE judged (key TEXT PRIMARY KEY, yes REAL NOT NULL) WITHOUT ROWID",
    "CREATE INDEX heaviest ON texts (weight DESC)",
)


@dataclass(slots=True)
class _Row:
    """A suggestion with its counts; 0 shoppers or listings where it is not from there."""

    text: str
    asked: float = 0.0
    listings: float = 0.0
    listed: str = ""


@dataclass(frozen=True, slots=True)
class _Settings:
    """What decides which suggestions there are, and their weights."""

    least_shoppers: int = 3
    half_life_days: float = 30.0
    model_weight: float = 0.3
    visits: bool = False
    blocked: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        whole_number("least_shoppers", self.least_shoppers, at_least=1)
        if not _is_number(self.half_life_days) or not self.half_life_days > 0:
            raise InputError(f"must be more than 0 days, got {shown(self.half_life_days)}", field="half_life_days")
        if not is_weight(self.model_weight):
            raise InputError(f"must be within 0..1, got {shown(self.model_weight)}", field="model_weight")
        for i, word in enumerate(self.blocked):
            if not isinstance(word, str) or not any(map(str.isalnum, word)):
                raise InputError(f"must be a word, got {shown(word)}", field=f"blocked[{i}]")


class Completion:
    """Suggestions while a shopper types; see the module's text.

    Make one with `Completion.of` or `Completion.open`, and close it, or use it as a context manager. Threads may share
    one, and any number of processes may read while one writes. A process that forks opens its own afterwards.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        """Use `Completion.of` or `Completion.open`."""
        self.path = path
        self._connection = connection
        self._lock = threading.Lock()
        self._settings = _read_settings(connection)
        self._allowed = suggestible(self._settings.blocked)
        if connection.execute("SELECT 1 FROM keys WHERE key BETWEEN '一' AND '龥' LIMIT 1").fetchone():
            sound("中")  # loads pypinyin, which would hold up a keystroke

    @classmethod
    def of(
        cls,
        index: Index,
        queries: Mapping[str, int] | FeedbackLog | None = None,
        *,
        path: str | Path | None = None,
        least_shoppers: int = 3,
        half_life_days: float = 30.0,
        model_weight: float = 0.3,
        visits: bool = False,
        blocked: Collection[str] = (),
    ) -> Completion:
        """Make the suggestions of a catalogue, or renew them; what the model judged is kept.

        Args:
            index: The catalogue.
            queries: What was searched for: the feedback log, or ``{query: number of different shoppers}``. None keeps
                the queries that are there already, as they were counted.
            path: The file; by default one in the index's folder.
            least_shoppers: A query is suggested once so many different shoppers have asked it, so that nobody's
                private query is shown to others. Unknown shoppers (no user id in the log) do not count.
            half_life_days: A shopper counts half as much for a query for each so many days since they last asked it.
            model_weight: Share of the model's judgement in the order, 0 to 1, once `judge` has been called.
            visits: Whether each visit of an unknown shopper counts as a shopper. One person's visits then count too.
            blocked: Words and phrases that no suggestion may hold.

        Raises:
            InputError: When an argument is wrong.
            DataFormatError: When the file is damaged or something else.
            MissingExtraError: When pypinyin or jieba is needed and not installed.
            OSError: When it cannot be written.
        """
        if not isinstance(index, Index):
            raise InputError(f"must be an Index, got {shown(index)}; open one with Index.open", field="index")
        if isinstance(blocked, str):
            raise InputError(f"must be a list of words, got the text {shown(blocked)}", field="blocked")
        settings = _Settings(least_shoppers, half_life_days, model_weight, visits, tuple(blocked))
        file = Path(path) if path is not None else index.path / _FILE
        with _reporting(file), contextlib.closing(_connect(file, make=True)) as connection:
            _prepare(file, connection)
            with writing(connection):
                rows = [(name, json.dumps(getattr(settings, name))) for name in _Settings.__slots__]
                connection.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", rows)
        completion = cls.open(file)
        try:
            completion.update(queries, index)
        except BaseException:
            completion.close()
            raise
        return completion

    @classmethod
    def open(cls, path: str | Path) -> Completion:
        """Open suggestions that `of` made.

        Args:
            path: The index's folder, or the file.

        Raises:
            InputError: When there are none.
            DataFormatError: When the file is damaged or something else.
        """
        file = _file(path)
        if not file.is_file():
            raise InputError(
                f"no suggestions in {path}; make them with genrank complete, or Completion.of", field="path"
            )
        with _reporting(file):
            connection = _connect(file)
            try:
                _check_stamp(file, connection)
                return cls(file, connection)
            except BaseException:
                connection.close()
                raise

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Whether an index's folder holds suggestions, or at least a file of that name."""
        return _file(path).is_file()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Completion:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """The number of texts that can be suggested."""
        with self._lock, _reporting(self.path):
            return int(self._connection.execute("SELECT count(*) FROM texts").fetchone()[0])

    def complete(self, prefix: str, count: int = 8) -> list[Suggestion]:
        """Suggest queries for what has been typed so far.

        The first of these that finds anything decides: suggestions that begin with the prefix, in letters or in pinyin;
        Chinese of the same sound, also half typed (连衣q); those that begin with it after one letter of a word of four
        or more is corrected; those that begin with its last words, after its first ones.

        Args:
            prefix: Any text, nothing in it is syntax. A space at the end ends the last word.
            count: How many suggestions, at most.

        Returns:
            Suggestions, best first; none for a blank prefix, or one of more than `LONGEST` characters.

        Raises:
            InputError: When an argument is wrong.
            DataFormatError: When the file is damaged.
        """
        if not isinstance(prefix, str):
            raise InputError(f"must be text, got {shown(prefix)}", field="prefix")
        count = whole_number("count", count, at_least=1)
        typed = typed_key(prefix[: 2 * LONGEST])
        if not typed or len(typed) > LONGEST:
            return []
        with self._lock, _reporting(self.path):
            return (
                self._beginning(typed, count)
                or self._beginning(sound(typed), count, "sound")
                or self._corrected(typed, count)
                or self._with_last_words(typed, count)
            )

    def update(
        self,
        queries: Mapping[str, int] | FeedbackLog | None = None,
        listings: Iterable[Listing] | None = None,
    ) -> int:
        """Count again what was searched for, what the catalogue has, or both; the next keystroke sees it.

        The counts replace those that are there, so a query whose shoppers were forgotten in the log goes. Keystrokes
        are answered meanwhile, in this process too.

        Args:
            queries: See `of`; None leaves the queries as they are.
            listings: The catalogue, such as an `Index`; None leaves its phrases as they are.

        Returns:
            The number of texts that can be suggested now.

        Raises:
            InputError: When a count is wrong.
            MissingExtraError: When pypinyin or jieba is needed and not installed.
            OSError: When the file cannot be written, or another process has been writing for a minute.
        """
        settings = self._settings
        asked = phrases = None
        if queries is not None:
            asked = asked_queries(
                queries,
                self._allowed,
                least_shoppers=settings.least_shoppers,
                half_life_days=settings.half_life_days,
                visits=settings.visits,
            )
        if listings is not None:
            phrases = catalogue_phrases(listings, self._allowed)
        with _reporting(self.path), contextlib.closing(_connect(self.path)) as connection, writing(connection):
            rows = _rows(connection)
            if asked is not None:
                _replace_asked(rows, asked)
            if phrases is not None:
                _replace_phrases(rows, phrases)
            rows = {name: row for name, row in rows.items() if row.asked or row.listings}
            if asked is None:  # they may have been counted before a word was blocked
                rows = {name: row for name, row in rows.items() if self._allowed(row.text)}
            judged = dict(connection.execute("SELECT key, yes FROM judged"))
            _write(connection, rows, _weights(rows, judged, settings.model_weight))
        return len(rows)

    def judge(self, engine: Engine, *, top: int = 1000) -> int:
        """Have the model judge the best suggestions, and order them anew.

        The model says for each, yes or no, whether a shopper would type it. That is far too slow for a keystroke, so it
        is asked beforehand, and its answers are kept: only what is new since the last call, or was judged by another
        model, is read. A suggestion that was not judged counts as the mean of those that were.

        Args:
            engine: A model that can be read by ``score``, such as `genrank.Reranker.engine`.
            top: How many suggestions, those of the greatest weights.

        Returns:
            How many were judged now.

        Raises:
            InputError: When `top` is wrong.
            EngineError: When the engine fails; what was judged until then is kept and counts.
            OSError: When the file cannot be written.
        """
        top = whole_number("top", top, at_least=1)
        with _reporting(self.path), contextlib.closing(_connect(self.path)) as connection:
            judge = fingerprint([engine.model, engine.adapter or "", str(WORDING)])
            with writing(connection):
                if connection.execute("SELECT value FROM settings WHERE name = 'judge'").fetchone() != (judge,):
                    connection.execute("DELETE FROM judged")
                    connection.execute("INSERT OR REPLACE INTO settings VALUES ('judge', ?)", (judge,))
            left = connection.execute(
                "SELECT key, text FROM (SELECT key, text FROM texts ORDER BY weight DESC LIMIT ?) "
                "WHERE key NOT IN (SELECT key FROM judged)",
                (top,),
            ).fetchall()
            done = 0
            try:
                while batch := left[done : done + _AT_ONCE]:
                    found = judge_texts(engine, [text for _, text in batch])
                    with writing(connection):
                        rows = [(name, yes) for (name, _), yes in zip(batch, found, strict=True)]
                        connection.executemany("INSERT OR REPLACE INTO judged VALUES (?, ?)", rows)
                    done += len(batch)
            finally:
                self.update()
        return done

    def _beginning(self, typed: str, count: int, match: Match = "prefix") -> list[Suggestion]:
        """The heaviest suggestions with a key that begins with a text; for ``sound``, with one of their pinyin."""
        if len(typed) <= _DEPTH:
            where, values = f"substr(key, 1, {len(typed)}) = ?", [typed]
        else:
            where, values = "key >= ? AND key < ?", [typed, typed + _LAST]
        rows = self._connection.execute(
            f"SELECT key, text, weight, asked > 0, listed FROM texts WHERE number IN "
            f"(SELECT number FROM keys WHERE {where} ORDER BY weight DESC LIMIT ?)",
            (*values, 3 * count),  # a text has three keys at most
        ).fetchall()
        found = []
        for name, text, weight, was_asked, listed in rows:
            by_sound = not name.startswith(typed)
            if by_sound or match != "sound":
                source = "query" if was_asked else cast(Source, listed)
                found.append(Suggestion(text, weight, source, "sound" if by_sound else match))
        return _best(found, count)

    def _corrected(self, typed: str, count: int) -> list[Suggestion]:
        """What begins with the text after one correction."""
        if len(typed) > _LONGEST_CORRECTED or not (meant := list(dict.fromkeys(misspelt(typed)))):
            return []
        known = self._connection.execute(
            "SELECT value FROM json_each(?) WHERE EXISTS (SELECT 1 FROM keys WHERE key >= value AND key < value || ?)",
            (json.dumps(meant), _LAST),
        ).fetchall()
        return _best([one for (text,) in known for one in self._beginning(text, count, "spelling")], count)

    def _with_last_words(self, typed: str, count: int) -> list[Suggestion]:
        """The first words as they are, with suggestions that begin with the others."""
        words = typed.split(" ")
        for at in range(1, len(words)):
            head, tail = " ".join(words[:at]), " ".join(words[at:])
            if len(tail.strip()) < 2:
                break
            found = [
                Suggestion(f"{head} {one.text}", one.score, one.source, "words")
                for one in self._beginning(tail, count)
                if one.match == "prefix" and self._allowed(f"{head} {one.text}")
            ]
            if found:
                return found
        return []


def _best(found: Sequence[Suggestion], count: int) -> list[Suggestion]:
    """The heaviest, each text once."""
    ordered = sorted(found, key=lambda one: (-one.score, one.text))
    return list({one.text: one for one in reversed(ordered)}.values())[::-1][:count]


def _replace_asked(rows: dict[str, _Row], asked: Mapping[str, Counted]) -> None:
    for row in rows.values():
        row.asked = 0.0
    for name, one in asked.items():
        row = rows.setdefault(name, _Row(one.text))
        row.text, row.asked = one.text, one.count


def _replace_phrases(rows: dict[str, _Row], phrases: Mapping[str, Counted]) -> None:
    for row in rows.values():
        row.listings, row.listed = 0.0, ""
    for name, one in phrases.items():
        row = rows.setdefault(name, _Row(one.text))
        row.listings, row.listed = one.count, one.source
        if not row.asked:
            row.text = one.text


def _weights(rows: Mapping[str, _Row], judged: Mapping[str, float], model_weight: float) -> dict[str, float]:
    """The weights, 0 to 1: logarithms of both counts, and the model's judgement where there is any."""
    most_asked = math.log1p(max((row.asked for row in rows.values()), default=0.0)) or 1.0
    most_listings = math.log1p(max((row.listings for row in rows.values()), default=0.0)) or 1.0
    known = [yes for name, yes in judged.items() if name in rows]
    mean, share = (math.fsum(known) / len(known), model_weight) if known else (0.0, 0.0)
    found = {}
    for name, row in rows.items():
        supply = _WORTH[cast(Source, row.listed)] * math.log1p(row.listings) / most_listings if row.listed else 0.0
        frequency = _ASKED * math.log1p(row.asked) / most_asked + (1 - _ASKED) * supply
        found[name] = (1 - share) * frequency + share * judged.get(name, mean)
    return found


def _rows(connection: sqlite3.Connection) -> dict[str, _Row]:
    found = connection.execute("SELECT key, text, asked, listings, listed FROM texts")
    return {name: _Row(*counts) for name, *counts in found}


def _write(connection: sqlite3.Connection, rows: Mapping[str, _Row], weights: Mapping[str, float]) -> None:
    """Replace all suggestions; the indexes are made at the end, which is faster."""
    run, texts, keys = connection.execute, [], []
    known: dict[str, list[str]] = defaultdict(list)  # pinyin takes most of the time
    for name, form in run("SELECT texts.key, keys.key FROM keys JOIN texts USING (number)"):
        known[name].append(form)
    for number, name in enumerate(sorted(rows), start=1):
        row, weight = rows[name], weights[name]
        texts.append((number, name, row.text, row.asked, row.listings, row.listed, weight))
        keys += [(form, number, weight) for form in known.get(name) or {name, *sounds(name)}]
    keys.sort()
    for length in range(1, _DEPTH + 1):
        run(f"DROP INDEX IF EXISTS first_{length}")
    run("DELETE FROM texts")
    run("DELETE FROM keys")
    connection.executemany("INSERT INTO texts VALUES (?, ?, ?, ?, ?, ?, ?)", texts)
    connection.executemany("INSERT INTO keys VALUES (?, ?, ?)", keys)
    run("DELETE FROM judged WHERE key NOT IN (SELECT key FROM texts)")
    for length in range(1, _DEPTH + 1):
        run(f"CREATE INDEX first_{length} ON keys (substr(key, 1, {length}), weight DESC)")


def _file(path: str | Path) -> Path:
    return Path(path) / _FILE if Path(path).is_dir() else Path(path)


def _connect(file: Path, *, make: bool = False) -> sqlite3.Connection:
    return connect(file, "secure_delete = ON", make=make)  # what is no longer suggested is overwritten


def _prepare(file: Path, connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    with writing(connection):
        if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            for statement in _TABLES:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
    _check_stamp(file, connection)


def _check_stamp(file: Path, connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION:
        raise DataFormatError(str(file), 0, "suggestions of genrank", "another database; take another file")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != FORMAT:
        found = f"version {version}; delete the file, and make it again with Completion.of"
        raise DataFormatError(str(file), 0, f"suggestions of version {FORMAT}", found)


def _read_settings(connection: sqlite3.Connection) -> _Settings:
    stored = dict(connection.execute("SELECT name, value FROM settings WHERE name != 'judge'"))
    values: dict[str, Any] = {name: json.loads(value) for name, value in stored.items()}
    return _Settings(**values | {"blocked": tuple(values.get("blocked", ()))})


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@contextlib.contextmanager
def _reporting(file: Path) -> Iterator[None]:
    """Turn SQLite's errors into those that are documented."""
    try:
        yield
    except sqlite3.Error as error:
        if is_damage(error) or "no such table" in str(error):
            found = f"a damaged file ({error}); delete it, and make it again with Completion.of"
            raise DataFormatError(str(file), 0, "suggestions of genrank", found) from None
        if isinstance(error, sqlite3.ProgrammingError):
            raise InputError(f"the suggestions cannot be used: {error}; open them again", field="completion") from None
        raise OSError(f"{file}: {error}") from error
