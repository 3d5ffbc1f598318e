from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="run-batch takes the gateway's schemas: pip install 'genrank[server]'")

from genrank.batch.run_batch import RunBatch
from genrank.batch.sources import Place, Row
from genrank.batch.workers import Outcome, rank_rows
from tests.batch_rig import Double

DOCUMENTS = [{"listing_id": f"d{i}", "title": f"Dress {i}"} for i in range(3)]


def _row(body: Any, **change: Any) -> Row:
    line = {"custom_id": "c1", "method": "POST", "url": "/v1/rerank", "body": body} | change
    return Row(Place(0, 1), "in.jsonl:1", line)


def _answer(*rows: Row, **options: Any) -> list[Outcome]:
    with Double().make() as ranker:
        return asyncio.run(rank_rows(ranker, RunBatch(**options), rows))


def test_a_rerank_request_is_answered_as_the_gateway_does() -> None:
    (outcome,) = _answer(_row({"model": "m", "query": "dress", "documents": DOCUMENTS, "top_n": 2}))
    assert not outcome.failed
    assert outcome.key == "id:c1"
    line = outcome.line
    assert (line["custom_id"], line["error"]) == ("c1", None)
    response = line["response"]
    assert response["status_code"] == 200
    assert [result["index"] for result in response["body"]["results"]] == [2, 1]
    assert response["body"]["model"] == "m"
    assert response["request_id"] == response["body"]["id"]
    assert RunBatch().key_of(line) == "id:c1"


def test_other_shapes_and_texts_alone() -> None:
    tei = _row({"query": "dress", "texts": ["0", "1", " "]}, url="/rerank")
    voyage = _row({"query": "dress", "documents": DOCUMENTS, "top_k": 1}, custom_id="c2")
    blank = _row({"query": "dress", "documents": ["", " "]}, custom_id="c3")
    first, second, third = (one.line["response"]["body"] for one in _answer(tei, voyage, blank))
    assert sorted(result["index"] for result in first) == [0, 1, 2]
    assert [result["index"] for result in second["data"]] == [2]
    assert [result["index"] for result in third["results"]] == [0, 1]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (_row({"query": "dress", "documents": []}), "documents: must hold at least one document"),
        (_row({"documents": DOCUMENTS}), "body: query: Field required"),
        (_row({"query": "a", "documents": [1]}), r"body: documents[0]: must be a text or an object, got 1"),
        (_row({"query": "a", "documents": DOCUMENTS, "instruction": "new"}), "instruction: the prompt has no place"),
        (_row([]), "body: must be an object, got []"),
        (_row({}, url="/v1/embeddings"), "url: must be one of /v1/rerank, /v2/rerank, /rerank, got '/v1/embeddings'"),
        (_row({}, method="GET"), "method: must be POST, got 'GET'"),
        (_row({}, custom_id=7), "custom_id: must be text"),
        (Row(Place(0, 1), "in.jsonl:1", 3), "must be an object with custom_id"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_line_is_an_error_line(row: Row, reason: str) -> None:
    (outcome,) = _answer(row)
    assert outcome.failed
    assert reason in outcome.line["reason"]
    assert outcome.line["response"] is None
    assert outcome.line["error"]["message"] == outcome.line["reason"]
