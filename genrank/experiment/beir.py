"""Reads BEIR folders: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/SPLIT.tsv`` (arXiv 2104.08663).

A line of ``corpus.jsonl`` has ``_id``, ``title`` and ``text``; ``metadata`` and other keys are further fields of the
document (`genrank.experiment.documents`). Each qrels file is a split, and queries without a judgement are left out.
So are judgements of documents that the corpus lacks; their number is said. The corpus is read once for the places of
its lines; after that, a document is read when it is looked up.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genrank.data.dataset import Dataset, DatasetQuery, Grade
from genrank.data.jsonl import parse_line, read_jsonl
from genrank.data.trec import Qrels, repeated_error
from genrank.errors import DataFormatError, InputError
from genrank.experiment.documents import Documents, document_listing
from genrank.experiment.program import say
from genrank.files import read_text
from genrank.types import Listing, Query

_HEADER = ["query-id", "corpus-id", "score"]


def is_beir(folder: Path) -> bool:
    """Whether a folder has BEIR's files and not those of a dataset folder."""
    return (folder / "corpus.jsonl").is_file() and not (folder / "dataset.toml").exists()


def read_beir(folder: Path) -> Dataset:
    """Read a BEIR folder as a dataset without candidates.

    The gain of a grade is the grade, as trec_eval has it; a grade below 0 counts as 0.

    Raises:
        DataFormatError: When a file is missing or broken, a query is in two splits, or a judgement names an unknown
            query.
    """
    corpus = Corpus(folder / "corpus.jsonl")
    texts = _queries(folder / "queries.jsonl")
    qrels: Qrels = {}
    splits: dict[str, str] = {}
    lost = 0
    files = sorted((folder / "qrels").glob("*.tsv"))
    if not files:
        raise DataFormatError(str(folder / "qrels"), 0, "a file for each split, such as test.tsv", "none")
    for file in files:
        for number, query_id, doc_id, grade in _judgements(file):
            if query_id not in texts:
                raise DataFormatError(str(file), number, "only query ids of queries.jsonl", repr(query_id))
            if doc_id not in corpus:
                lost += 1
                continue
            if splits.setdefault(query_id, file.stem) != file.stem:
                found = f"{query_id!r}, which is in {splits[query_id]}.tsv too"
                raise DataFormatError(str(file), number, "each query in one split", found)
            judged = qrels.setdefault(query_id, {})
            if doc_id in judged:
                raise repeated_error(file, number, f"corpus-id of query {query_id}", doc_id)
            judged[doc_id] = max(grade, 0)
    if lost:
        say(f"{folder}: {lost} judgements of documents that corpus.jsonl lacks are left out")
    queries = [DatasetQuery(Query(text, key), splits[key]) for key, text in texts.items() if key in splits]
    name = folder.resolve().name
    return Dataset(name, f"BEIR folder {name}", grades_of(qrels), corpus, queries, qrels)


def grades_of(qrels: Qrels, labels: dict[int, str] | None = None) -> dict[int, Grade]:
    """The grades of some qrels, and 0: each is worth itself.

    Args:
        qrels: Grades of 0 and more.
        labels: What the grades mean, where it is known.
    """
    found = {0, *(labels or ()), *(grade for judged in qrels.values() for grade in judged.values())}
    return {
        grade: Grade((labels or {}).get(grade, f"grade {grade}"), float(grade)) for grade in sorted(found) if grade >= 0
    }


class Corpus(Documents):
    """The documents of a ``corpus.jsonl``.

    Args:
        path: The file.

    Raises:
        DataFormatError: When it is broken, or an id repeats.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._places: dict[str, tuple[int, int]] = {}
        for number, place, line in _lines(path):
            doc_id = _field(path, number, _object(path, number, line), "_id")
            if doc_id in self._places:
                raise repeated_error(path, number, "_id", doc_id)
            self._places[doc_id] = number, place

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, doc_id: object) -> bool:
        return doc_id in self._places

    def find(self, doc_id: str) -> Listing:
        """One listing, read from the file."""
        number, place = self._places[doc_id]
        with self._path.open("rb") as file:
            file.seek(place)
            return self._listing(number, file.readline())

    def stream(self) -> Iterator[Listing]:
        """All listings in the file's order."""
        return (self._listing(number, line) for number, _, line in _lines(self._path))

    def _listing(self, number: int, line: bytes) -> Listing:
        fields = _object(self._path, number, line)
        own = {key: _field(self._path, number, fields, key, "") for key in ("_id", "title", "text")}
        further = {key: value for key, value in fields.items() if key not in (*own, "metadata")}
        if isinstance(fields.get("metadata"), dict):
            further |= fields["metadata"]
        try:
            return document_listing(own["_id"], own["title"], own["text"], further)
        except InputError as error:
            raise DataFormatError(str(self._path), number, "a document", str(error)) from None


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Number (1-based), place in bytes and text of each line that is not blank."""
    place = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, place, line
                place += len(line)
    except OSError as error:
        raise DataFormatError(str(path), 0, "a readable file", error.strerror or str(error)) from None


def _object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    value = parse_line(str(path), number, line)
    if isinstance(value, DataFormatError):
        raise value
    return _checked(path, number, value)


def _checked(path: Path, number: int, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataFormatError(str(path), number, "one JSON object", type(value).__name__)
    return value


def _field(path: Path, number: int, fields: dict[str, Any], key: str, default: str | None = None) -> str:
    value = fields.get(key)
    if value is None:
        value = default
    if not isinstance(value, str):
        raise DataFormatError(str(path), number, f"{key} as text", repr(value)[:80])
    return value


def _queries(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, value in read_jsonl(path):
        if isinstance(value, DataFormatError):
            raise value
        fields = _checked(path, number, value)
        query_id, text = _field(path, number, fields, "_id"), _field(path, number, fields, "text")
        if query_id in found:
            raise repeated_error(path, number, "_id", query_id)
        try:
            found[query_id] = Query(text, query_id).text
        except InputError as error:
            raise DataFormatError(str(path), number, "a query", str(error)) from None
    return found


def _judgements(path: Path) -> Iterator[tuple[int, str, str, int]]:
    try:
        lines = read_text(path).split("\n")
    except (OSError, ValueError) as error:
        raise DataFormatError(str(path), 0, "readable UTF-8 text", str(error)) from None
    for number, line in enumerate(lines, start=1):
        cells = line.split("\t")
        if not line.strip() or (number == 1 and [cell.strip() for cell in cells] == _HEADER):
            continue
        try:
            query_id, doc_id, grade = cells
            yield number, query_id, doc_id, int(grade)
        except ValueError:
            expected = "query-id, corpus-id and a whole-number score, with tabs between them"
            raise DataFormatError(str(path), number, expected, repr(line[:80])) from None
