"""A small text collection as a BEIR folder and in ir_datasets' registry, for the tests of both."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DOCUMENTS: Sequence[Mapping[str, Any]] = (
    {"_id": "d1", "title": "Red lamp", "text": "A lamp of red glass.", "metadata": {"brand": "Acme", "watts": 40}},
    {"_id": "d2", "title": "Blue lamp", "text": "A lamp of blue glass.", "metadata": {}},
    {"_id": "d3", "title": "", "text": "An oak desk that needs no title.", "metadata": {}},
    {"_id": "d4", "title": "Pine desk", "text": "", "metadata": {}},
    {"_id": "d5", "title": "", "text": "", "metadata": {}},
)
QUERIES = {"q1": "red lamp", "q2": "desk of oak", "q3": "blue glass", "q4": "pine", "q9": "nobody judged this"}
QRELS = {
    "train": {"q3": {"d2": 1, "d1": 0}},
    "dev": {"q4": {"d4": 1, "d3": 0}},
    "test": {"q1": {"d1": 2, "d2": 1, "d3": 0}, "q2": {"d3": 1, "d4": 2}},
}
SCORED = {"q1": {"d2": 3.0, "d1": 2.0, "d4": 1.0}, "q2": {"d4": 2.5, "d3": 1.5}, "q9": {"d1": 1.0}}


def write_beir(folder: Path) -> Path:
    """Write the collection as a BEIR folder."""
    (folder / "qrels").mkdir(parents=True)
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(document) + "\n" for document in DOCUMENTS)
    with (folder / "queries.jsonl").open("w", encoding="utf-8") as out:
        out.writelines(json.dumps({"_id": key, "text": text, "metadata": {}}) + "\n" for key, text in QUERIES.items())
    for split, qrels in QRELS.items():
        lines = ["query-id\tcorpus-id\tscore"]
        lines += [f"{query}\t{key}\t{grade}" for query, judged in qrels.items() for key, grade in judged.items()]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def register(folder: Path, split: str, *, scored: bool = False) -> str:
    """Register the collection with ir_datasets, which reads it by its own formats from a BEIR folder's files.

    Args:
        folder: For `write_beir`, and the files in other formats beside it.
        split: Of `QRELS`.
        scored: Whether there is a first stage, `SCORED`.

    Returns:
        The dataset's id, a new one for each call.
    """
    import ir_datasets
    from ir_datasets.datasets.beir import BeirDoc, BeirQrels
    from ir_datasets.formats import JsonlDocs, JsonlQueries, TrecScoredDocs
    from ir_datasets.util import LocalDownload

    write_beir(folder)
    documents = JsonlDocs(
        LocalDownload(folder / "corpus.jsonl"),
        BeirDoc,
        {"doc_id": "_id", "text": "text", "title": "title", "metadata": "metadata"},
    )
    queries = JsonlQueries(LocalDownload(folder / "queries.jsonl"), mapping={"query_id": "_id", "text": "text"})
    qrels = BeirQrels(LocalDownload(folder / "qrels" / f"{split}.tsv"), {0: "wrong", 1: "partly", 2: "right"})
    parts = [documents, queries, qrels]
    if scored:
        lines = [f"{q} Q0 {key} 0 {score} x" for q, found in SCORED.items() for key, score in found.items()]
        (folder / "scored.trec").write_text("\n".join(lines) + "\n", encoding="utf-8")
        parts.append(TrecScoredDocs(LocalDownload(folder / "scored.trec")))
    name = f"made-up-{uuid.uuid4().hex}"
    ir_datasets.registry.register(name, ir_datasets.Dataset(documents, queries))
    ir_datasets.registry.register(f"{name}/{split}", ir_datasets.Dataset(*parts))
    return f"{name}/{split}"
