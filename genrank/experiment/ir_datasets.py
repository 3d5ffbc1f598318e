"""Reads the datasets of the package ``ir_datasets`` (arXiv 2103.02280), such as ``beir/scifact/test``.

ir_datasets downloads what it needs into ``IR_DATASETS_HOME`` and keeps an index of the documents there, from which
single ones are read. Title and text are the document's fields of these names (or ``body``, ``abstract``, ..);
`genrank.experiment.documents` says what becomes of the others. A dataset is one split, named by its id: ``train``
where that has such a part, ``dev`` for ``dev`` or ``validation``, else ``test``. Queries without a judgement are left
out. The gain of a grade is the grade, as trec_eval has it; a grade below 0 counts as 0. Of several judgements of a pair
the highest counts.
"""

from __future__ import annotations

import contextlib
import heapq
import re
from collections.abc import Iterator
from typing import Any

from genrank.data.dataset import Dataset, DatasetQuery
from genrank.data.trec import Qrels, Run
from genrank.errors import ConfigError, DataFormatError, InputError, MissingExtraError
from genrank.experiment.beir import grades_of
from genrank.experiment.documents import Documents, document_listing
from genrank.types import Listing, Query

PREFIX = "ir_datasets:"
"""What a dataset's name starts with when it is one of ir_datasets."""

_TEXTS = ("text", "body", "abstract", "contents", "content", "description")
_TITLES = ("title", "headline", "name")
_SPLITS = (("train", re.compile(r"train\d*")), ("dev", re.compile(r"(dev|val|valid|validation)\d*")))


def read_ir_dataset(name: str) -> Dataset:
    """Read a dataset of ir_datasets, without candidates; documents are read when they are looked up.

    Args:
        name: The dataset's id, without `PREFIX`.

    Raises:
        ConfigError: When ir_datasets has no such dataset, it has no documents, queries or judgements, or it cannot be
            downloaded.
        DataFormatError: When a query or document does not fit genrank.
        MissingExtraError: When ir_datasets is not installed.
    """
    source = _load(name)
    documents = IrDocuments(name, source)
    qrels: Qrels = {}
    with _readable(name):
        for one in source.qrels_iter():
            judged = qrels.setdefault(one.query_id, {})
            judged[one.doc_id] = max(judged.get(one.doc_id, 0), int(one.relevance))
        labels = {grade: str(label) for grade, label in (source.qrels_defs() or {}).items()}
        texts = {one.query_id: _query_text(one) for one in source.queries_iter() if one.query_id in qrels}
    split = split_of_name(name)
    queries = []
    for query_id, text in texts.items():
        try:
            queries.append(DatasetQuery(Query(text, query_id), split))
        except InputError as error:
            raise DataFormatError(PREFIX + name, 0, "queries with a text and an id", str(error)) from None
    qrels = {query_id: qrels[query_id] for query_id in texts}
    return Dataset(name, f"ir_datasets: {name}", grades_of(qrels, labels), documents, queries, qrels)


def has_scored_documents(name: str) -> bool:
    """Whether ir_datasets has a first stage of this dataset (``scoreddocs``)."""
    return bool(_load(name).has_scoreddocs())


def scored_documents(dataset: Dataset, depth: int) -> Run:
    """The first stage that ir_datasets has of a dataset.

    Args:
        dataset: From `read_ir_dataset`.
        depth: How many documents of each query are kept, the best ones.

    Raises:
        ConfigError: When it has none, or it cannot be downloaded.
    """
    source = _load(dataset.name)
    if not source.has_scoreddocs():
        raise ConfigError(f"first_stage: ir_datasets has no scoreddocs of {dataset.name}; name bm25 or a TREC run")
    found: dict[str, list[tuple[float, str]]] = {query.query.query_id: [] for query in dataset.queries}
    with _readable(dataset.name):
        for one in source.scoreddocs_iter():
            if one.query_id not in found:
                continue
            kept = found[one.query_id]
            kept.append((float(one.score), one.doc_id))
            if len(kept) >= 10 * depth:
                kept[:] = heapq.nlargest(depth, kept)
    return {
        query_id: {doc_id: score for score, doc_id in heapq.nlargest(depth, kept)}
        for query_id, kept in found.items()
        if kept
    }


def split_of_name(name: str) -> str:
    """The split that a dataset's id names, see the top of this module."""
    for split, pattern in _SPLITS:
        if any(pattern.fullmatch(part) for part in name.split("/")):
            return split
    return "test"


class IrDocuments(Documents):
    """The documents of a dataset of ir_datasets.

    Args:
        name: Its id.
        source: What ``ir_datasets.load`` gave.
    """

    def __init__(self, name: str, source: Any) -> None:
        super().__init__()
        self._name, self._source = name, source
        self._store: Any = None

    def __len__(self) -> int:
        with _readable(self._name):
            count = self._source.docs_count()
        return super().__len__() if count is None else int(count)

    def __contains__(self, doc_id: object) -> bool:
        try:
            return self[str(doc_id)] is not None
        except KeyError:
            return False

    def find(self, doc_id: str) -> Listing:
        """One listing, read from ir_datasets' index of the documents."""
        with _readable(self._name):
            if self._store is None:
                self._store = self._source.docs_store()
            found = self._store.get_many([doc_id])
        return self._listing(found[doc_id])

    def stream(self) -> Iterator[Listing]:
        """All listings in the collection's order."""
        with _readable(self._name):
            for document in self._source.docs_iter():
                yield self._listing(document)

    def _listing(self, document: Any) -> Listing:
        fields = dict(document._asdict())
        doc_id = fields.pop("doc_id")
        title = str(fields.pop(next((name for name in _TITLES if name in fields), ""), None) or "")
        field = next((name for name in _TEXTS if name in fields), None)
        if field is not None:
            text = str(fields.pop(field) or "")
        else:
            text = str(document.default_text()) if hasattr(document, "default_text") else ""
            text = text.removeprefix(title).strip()
        further = fields.pop("metadata", None)
        fields |= further if isinstance(further, dict) else {}
        try:
            return document_listing(doc_id, title, text, fields)
        except InputError as error:
            raise DataFormatError(PREFIX + self._name, 0, f"a document that fits, {doc_id!r}", str(error)) from None


def _load(name: str) -> Any:
    try:
        import ir_datasets
    except ImportError:
        raise MissingExtraError("ir_datasets", "eval") from None
    try:
        source = ir_datasets.load(name)
    except KeyError:
        raise ConfigError(f"dataset: ir_datasets has no {name!r}; `ir_datasets list` prints what it has") from None
    lacking = [what for what in ("docs", "queries", "qrels") if not source.has(what)]
    if lacking:
        parts = [
            one for one in ir_datasets.registry if one.startswith(f"{name}/") and ir_datasets.load(one).has_qrels()
        ]
        more = f"; name a part that has them, such as {', '.join(sorted(parts)[:5])}" if parts else ""
        raise ConfigError(f"dataset: {PREFIX}{name} has no {' and no '.join(lacking)}{more}")
    return source


def _query_text(query: Any) -> str:
    for field in ("text", "title", "query"):
        if text := getattr(query, field, ""):
            return str(text)
    return str(query.default_text()) if hasattr(query, "default_text") else ""


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    """Turn what fails on the way, a download or a file, into an error that names the dataset."""
    try:
        yield
    except DataFormatError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[:300]
        raise ConfigError(f"dataset: ir_datasets could not read {name}: {said or type(error).__name__}") from error
