from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.responses import Response

from genrank.server.answers import Answer, RankedPlace
from genrank.server.documents import read_documents
from genrank.server.errors import ApiError
from genrank.server.shapes import Reply, Shape, error_response, shape_of
from genrank.types import Tokens

SENT = ["A", "", {"title": "C", "listing_id": "c", "brand": "Acme"}]
ANSWER = Answer(
    (RankedPlace(1, 1.0, "It fits.", ("title",)), RankedPlace(0, 0.25)),
    tier="reasons",
    outcome="model",
    tokens=Tokens(prompt=9, completion=2),
)


def response(shape: Shape, **change: Any) -> Response:
    fields: dict[str, Any] = {
        "request_id": "r1",
        "version": "2",
        "model": "m",
        "sent": SENT,
        "documents": read_documents(SENT, field="documents", most_text=100),
        "answer": ANSWER,
        "cached": False,
        "wanted": None,
        "with_documents": False,
    }
    return Reply(**(fields | change)).response(shape)


def reply(shape: Shape, **change: Any) -> Any:
    return json.loads(bytes(response(shape, **change).body))


@pytest.mark.parametrize(
    ("path", "fields", "shape"),
    [
        ("/rerank", {"documents": []}, "cohere"),
        ("/v1/rerank", {"documents": [], "top_k": None}, "voyage"),
        ("/v1/rerank", {"documents": [], "top_k": 3, "top_n": 3}, "cohere"),
        ("/v2/rerank", {"documents": [], "top_k": 3}, "cohere"),
        ("/rerank", {"texts": [], "top_k": 3}, "tei"),
        ("/rerank", {"texts": None, "documents": []}, "cohere"),
    ],
)
def test_the_request_says_which_api_it_speaks(path: str, fields: dict[str, Any], shape: str) -> None:
    assert shape_of(path, fields) == shape


def test_cohere() -> None:
    body = reply("cohere")
    details = body.pop("genrank")
    assert body == {
        "id": "r1",
        "model": "m",
        "results": [
            {"index": 2, "relevance_score": 1.0, "listing_id": "c", "reason": "It fits.", "evidence": ["title"]},
            {"index": 0, "relevance_score": 0.25},
            {"index": 1, "relevance_score": 0.0},
        ],
        "usage": {"prompt_tokens": 9, "total_tokens": 11},
        "meta": {
            "api_version": {"version": "2"},
            "billed_units": {"search_units": 1},
            "tokens": {"input_tokens": 9, "output_tokens": 2},
        },
    }
    assert (details["tier"], details["cached"]) == ("reasons", False)


@pytest.mark.parametrize("shape", ["cohere", "voyage", "tei"])
def test_scores_are_floats_and_headers_name_the_tier(shape: Shape) -> None:
    found = response(shape)
    assert b'score":1.0' in bytes(found.body)
    assert (found.headers["x-genrank-tier"], found.headers["x-genrank-outcome"]) == ("reasons", "model")


def test_voyage() -> None:
    body = reply("voyage", with_documents=True, wanted=2)
    body.pop("genrank")
    assert body == {
        "object": "list",
        "data": [
            {"index": 2, "relevance_score": 1.0, "document": "C", "listing_id": "c", "reason": "It fits.",
             "evidence": ["title"]},
            {"index": 0, "relevance_score": 0.25, "document": "A"},
        ],
        "model": "m",
        "usage": {"total_tokens": 11},
    }  # fmt: skip


def test_tei() -> None:
    assert reply("tei") == [
        {"index": 2, "score": 1.0, "reason": "It fits."},
        {"index": 0, "score": 0.25},
        {"index": 1, "score": 0.0},
    ]
    assert [row["text"] for row in reply("tei", with_documents=True)] == ["C", "A", ""]


def test_documents_come_back_only_if_asked_for() -> None:
    assert [result.get("document") for result in reply("cohere", with_documents=True)["results"]] == [
        {"title": "C", "listing_id": "c", "brand": "Acme", "text": "C"},
        {"text": "A"},
        {"text": ""},
    ]


def test_an_error_has_the_fields_that_clients_look_for() -> None:
    found = error_response(ApiError(422, "query: no", field="query"))
    assert json.loads(bytes(found.body)) == {
        "message": "query: no",
        "detail": "query: no",
        "error": {"message": "query: no", "type": "invalid_request_error", "param": "query", "code": 422},
    }
    found = error_response(ApiError(429, "later", retry_after=7), "tei")
    assert (found.status_code, found.headers["retry-after"]) == (429, "7")
    assert json.loads(bytes(found.body)) == {"error": "later", "error_type": "Overloaded"}
    empty = error_response(ApiError(400, "none", field="texts"), "tei")
    assert json.loads(bytes(empty.body))["error_type"] == "Empty"
