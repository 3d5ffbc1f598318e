"""Reads and writes dataset folders.

A dataset folder holds ``listings.jsonl``, ``queries.jsonl``, ``qrels.trec``, ``dataset.toml`` and, optionally,
``candidates.trec``, the first stage's run. A broken line raises `DataFormatError` with ``path:line``, what was expected
and what was found.
"""

from __future__ import annotations

import importlib.resources
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from genrank.data.jsonl import interaction_fields, iso_time, read_jsonl, write_jsonl
from genrank.data.trec import Qrels, read_qrels, read_run, repeated_error, write_qrels, write_run
from genrank.errors import DataFormatError, InputError
from genrank.files import read_text, write_atomically
from genrank.inputs import at, make_history, make_intent
from genrank.types import Candidate, Intent, Interaction, Listing, Query, Request, make_listing

B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Grade:
    """One level of relevance.

    Attributes:
        label: Its meaning, as the judges were told.
        gain: Its gain in nDCG.
    """

    label: str
    gain: float


@dataclass(frozen=True, slots=True)
class DatasetQuery:
    """A query of a dataset.

    Attributes:
        query: Text and id.
        split: ``train``, ``dev`` or ``test``.
        history: The shopper's past, in any order; times decide.
        time: When it was asked; None when unknown. No interaction in the history is later.
        frequency: How often it was asked, from logs, 1 or more; None when unknown.
        intent: What it means, as `genrank.search.understanding` or a person found; None when unknown.
    """

    query: Query
    split: str
    history: tuple[Interaction, ...] = ()
    time: datetime | None = None
    frequency: int | None = None
    intent: Intent | None = None


@dataclass(frozen=True)
class Dataset:
    """A dataset folder, read and checked.

    Attributes:
        name: The dataset's name.
        source: Where it comes from, and its licence.
        grades: Meaning and gain of each grade of the qrels.
        listings: By id.
        queries: In the file's order.
        qrels: Judgements.
        candidates: The first stage's run; empty when the folder has none.
        first_stage: What made the run, such as ``bm25``; empty when unknown. ``random`` means that there was no first
            stage: the scores are meaningless and not passed on.
    """

    name: str
    source: str
    grades: Mapping[int, Grade]
    listings: Mapping[str, Listing]
    queries: Sequence[DatasetQuery]
    qrels: Qrels
    candidates: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    first_stage: str = ""

    @classmethod
    def load(cls, folder: str | Path) -> Dataset:
        """Read a dataset folder.

        Raises:
            DataFormatError: When a file is missing or broken, an id repeats, or one file names an id that is missing
                from another.
        """
        root = Path(folder)
        name, source, grades, first_stage = _read_dataset_toml(root / "dataset.toml")
        listings: dict[str, Listing] = {}
        for number, fields in _objects(root / "listings.jsonl"):
            listing = _build(root / "listings.jsonl", number, make_listing, fields)
            if listing.listing_id in listings:
                raise repeated_error(root / "listings.jsonl", number, "listing_id", listing.listing_id)
            listings[listing.listing_id] = listing
        queries: dict[str, DatasetQuery] = {}
        for number, fields in _objects(root / "queries.jsonl"):
            query = _build(root / "queries.jsonl", number, _dataset_query, fields)
            if query.query.query_id in queries:
                raise repeated_error(root / "queries.jsonl", number, "query_id", query.query.query_id)
            queries[query.query.query_id] = query
        qrels = read_qrels(root / "qrels.trec")
        run_path = root / "candidates.trec"
        run = read_run(run_path) if run_path.exists() else {}
        for path, table in ((root / "qrels.trec", qrels), (run_path, run)):
            for query_id, entries in table.items():
                if query_id not in queries:
                    raise DataFormatError(str(path), 0, "only query ids of queries.jsonl", repr(query_id))
                for listing_id in entries:
                    if listing_id not in listings:
                        raise DataFormatError(
                            str(path),
                            0,
                            "only listing ids of listings.jsonl",
                            f"{listing_id!r} (query {query_id})",
                        )
        unknown = sorted({grade for entries in qrels.values() for grade in entries.values()} - set(grades))
        if unknown:
            raise DataFormatError(
                str(root / "qrels.trec"),
                0,
                f"grades of dataset.toml, {sorted(grades)}",
                f"grade {unknown[0]}",
            )
        return cls(name, source, grades, listings, tuple(queries.values()), qrels, run, first_stage)

    def save(self, folder: str | Path) -> None:
        """Write the dataset to a folder, which is created if needed."""
        root = Path(folder)
        root.mkdir(parents=True, exist_ok=True)
        write_jsonl(root / "listings.jsonl", (listing.to_dict() for listing in self.listings.values()))
        write_jsonl(root / "queries.jsonl", (_dataset_query_fields(query) for query in self.queries))
        write_qrels(root / "qrels.trec", self.qrels)
        if self.candidates:
            write_run(root / "candidates.trec", self.candidates, tag=self.first_stage or "first-stage")
        self._save_toml(root)

    def save_first_stage(self, folder: str | Path) -> None:
        """Write only the first stage (`candidates` and `first_stage`) into an existing dataset folder."""
        root = Path(folder)
        with write_atomically(root / "candidates.trec") as part:
            write_run(part, self.candidates, tag=self.first_stage or "first-stage")
        self._save_toml(root)

    def _save_toml(self, root: Path) -> None:
        fields: dict[str, Any] = {"name": self.name, "source": self.source}
        if self.first_stage:
            fields["first_stage"] = self.first_stage
        fields["grades"] = {
            str(grade): {"label": meaning.label, "gain": float(meaning.gain)}
            for grade, meaning in sorted(self.grades.items())
        }
        with write_atomically(root / "dataset.toml") as part:
            part.write_text(tomli_w.dumps(fields), encoding="utf-8", newline="\n")

    def split(self, name: str) -> list[DatasetQuery]:
        """The queries of one split.

        Raises:
            InputError: When the split has no query.
        """
        queries = [query for query in self.queries if query.split == name]
        if not queries:
            known = sorted({query.split for query in self.queries})
            raise InputError(f"no query of {self.name} has split {name!r}; the splits are {known}", field="split")
        return queries

    def request(self, query: DatasetQuery, max_candidates: int | None = None) -> Request:
        """The rerank call for one query and its first stage's candidates.

        Without a first stage, the judged listings are the candidates, in the order of the qrels.

        Args:
            query: A query of this dataset.
            max_candidates: The most candidates to keep, the first stage's best; None keeps all.

        Raises:
            InputError: When the query has no candidate, or one is not a listing of this dataset.
        """
        query_id = query.query.query_id
        scores: Mapping[str, float | None] = self.candidates.get(query_id) or dict.fromkeys(
            self.qrels.get(query_id, {})
        )
        if self.first_stage == "random":
            scores = dict.fromkeys(scores)
        ranked = list(scores.items())[:max_candidates]
        if not ranked:
            raise InputError(
                f"query {query_id} of {self.name} has neither candidates nor judgements", field="candidates"
            )
        try:
            candidates = tuple(
                Candidate(self.listings[listing_id], score=score, rank=None if score is None else rank)
                for rank, (listing_id, score) in enumerate(ranked, start=1)
            )
        except KeyError as error:  # a run over another collection
            message = (
                f"query {query_id}: {error.args[0]!r} is not a listing of {self.name}; use a run over its listings"
            )
            raise InputError(message, field="candidates") from None
        return Request(query.query, candidates, query.history, query.intent)


def sample_shop() -> Dataset:
    """The synthetic sample shop, in English and Chinese, that ships with genrank."""
    with importlib.resources.as_file(importlib.resources.files("genrank.data") / "sample_shop") as folder:
        return Dataset.load(folder)


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, value in read_jsonl(path):
        if isinstance(value, DataFormatError):
            raise value
        if not isinstance(value, dict):
            raise DataFormatError(str(path), number, "one JSON object", type(value).__name__)
        yield number, value


def _build(path: Path, number: int, make: Callable[[dict[str, Any]], B], fields: dict[str, Any]) -> B:
    try:
        return make(fields)
    except InputError as error:
        raise DataFormatError(str(path), number, "valid fields", str(error)) from None


def _dataset_query(fields: Mapping[str, Any]) -> DatasetQuery:
    known = ("query_id", "query", "split", "history", "time", "frequency", "intent")
    for key in fields:
        if key not in known:
            raise InputError(f"unknown field; a query has {', '.join(known)}", field=key)
    for key in known[:3]:
        if not fields.get(key):
            raise InputError("this field is required; give it a value", field=key)
    if not isinstance(fields["split"], str):
        raise InputError("must be text, such as train, dev or test", field="split")
    with at("query"):
        query = Query(fields["query"], query_id=fields["query_id"])
    history = make_history(() if fields.get("history") is None else fields["history"])
    time = _time(fields.get("time"))
    for i, interaction in enumerate(history):
        if time and interaction.time and _utc(interaction.time) > _utc(time):
            raise InputError(
                f"{interaction.time.isoformat()} is later than the query ({time.isoformat()}); leave it out",
                field=f"history[{i}].time",
            )
    frequency = fields.get("frequency")
    if frequency is not None and (isinstance(frequency, bool) or not isinstance(frequency, int) or frequency < 1):
        raise InputError(f"must be a whole number, 1 or more, got {frequency!r}", field="frequency")
    return DatasetQuery(query, fields["split"], history, time, frequency, make_intent(fields.get("intent"), query))


def _time(value: Any) -> datetime | None:
    if value is None:
        return None
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise InputError(f"must be ISO 8601, such as 2026-05-01T10:00:00Z, got {value!r}", field="time") from None


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


def _dataset_query_fields(query: DatasetQuery) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "query_id": query.query.query_id,
        "query": query.query.text,
        "split": query.split,
    }
    if query.time is not None:
        fields["time"] = iso_time(query.time)
    if query.frequency is not None:
        fields["frequency"] = query.frequency
    if query.history:
        fields["history"] = [interaction_fields(interaction) for interaction in query.history]
    if query.intent is not None:
        fields["intent"] = query.intent.to_dict()
    return fields


def _read_dataset_toml(path: Path) -> tuple[str, str, dict[int, Grade], str]:
    try:
        settings = tomllib.loads(read_text(path))
    except OSError as error:
        raise DataFormatError(str(path), 0, "a readable file", error.strerror or str(error)) from None
    except (ValueError, RecursionError) as error:
        raise DataFormatError(str(path), 0, "TOML", str(error)) from None
    for key in ("name", "source", "grades"):
        if key not in settings:
            raise DataFormatError(str(path), 0, "the keys name, source and grades", f"no {key}")
    expected = "grades as whole numbers, each [grades.N] with label and a finite gain"
    if not isinstance(settings["grades"], dict):
        raise DataFormatError(str(path), 0, expected, f"grades = {settings['grades']!r}")
    grades = {}
    for key, meaning in settings["grades"].items():
        try:
            gain = float(meaning["gain"])
            if not math.isfinite(gain):
                raise ValueError
            grades[int(key)] = Grade(str(meaning["label"]), gain)
        except (ValueError, TypeError, KeyError):
            raise DataFormatError(str(path), 0, expected, f"grades.{key} = {meaning!r}") from None
    return str(settings["name"]), str(settings["source"]), grades, str(settings.get("first_stage", ""))
