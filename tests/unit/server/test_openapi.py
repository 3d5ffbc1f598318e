"""The OpenAPI document is true: requests made from it, right and wrong ones, get the answers that it describes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.unit.server.conftest import Serve

schemathesis: Any = pytest.importorskip("schemathesis")

LIMITS = {"documents": 50, "text": 500, "body": 20_000}
RANKING = ["/v2/rerank", "/v1/rerank", "/rerank"]
OTHERS = ["/info", "/v1/models", "/health", "/ready", "/metrics"]


def examine(serve: Serve, path: str, method: str, count: int) -> None:
    """Send `count` requests that fit the schema and as many that do not; every answer must fit it."""
    client = serve(limits=LIMITS)
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    operation = schema[path][method]
    modes = [schemathesis.GenerationMode.POSITIVE]
    if method == "POST":
        modes.append(schemathesis.GenerationMode.NEGATIVE)
    statuses = set()
    for mode in modes:

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def check(case: Any) -> None:
            body = case.body if isinstance(case.body, (dict, list, str, int, float, bool, type(None))) else None
            sent = {} if method == "GET" else {"content": json.dumps(body).encode()}
            answer = client.request(method, path, **sent)
            statuses.add(answer.status_code)
            assert answer.status_code < 500, answer.text
            if answer.headers["content-type"].startswith("application/json"):
                operation.validate_response(schemathesis.Response.from_any(answer))

        check()
    assert 200 in statuses
    assert method == "GET" or 422 in statuses


@pytest.mark.parametrize("path", RANKING)
def test_no_request_made_from_the_document_breaks_the_server(serve: Serve, path: str) -> None:
    examine(serve, path, "POST", 40)


@pytest.mark.parametrize("path", OTHERS)
def test_the_other_paths_answer_as_described(serve: Serve, path: str) -> None:
    examine(serve, path, "GET", 1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("path", RANKING)
def test_no_request_of_thousands_breaks_it(serve: Serve, path: str) -> None:
    examine(serve, path, "POST", 1000)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = (
    "query",
    "documents",
    "texts",
    "model",
    "top_n",
    "top_k",
    "return_documents",
    "rank_fields",
    "history",
    "reasons",
)


def test_any_json_in_any_field_is_answered(serve: Serve) -> None:
    client = serve(limits=LIMITS)

    @given(
        body=st.dictionaries(st.sampled_from(FIELDS), json_values), right=st.booleans(), path=st.sampled_from(RANKING)
    )
    @settings(deadline=None)
    def check(body: dict[str, Any], right: bool, path: str) -> None:
        body = ({"query": "dress", "documents": ["A"]} if right else {}) | body
        answer = client.post(path, content=json.dumps(body).encode("utf-8", "surrogatepass"))
        assert answer.status_code in (200, 400, 404, 413, 422), answer.text

    check()


def test_any_document_is_ranked_or_refused(serve: Serve) -> None:
    client = serve()
    keys = st.sampled_from(["title", "text", "id", "listing_id", "price", "category", "attributes", "rating", "score",
                            "rank", "in_stock", "reviews", "brand", "other"])  # fmt: skip
    values = json_values | st.sampled_from(["Red dress", 3, 4.5, {"amount": 3}, ["a", "b"]])
    documents = st.lists(st.text() | st.dictionaries(keys, values), min_size=1, max_size=5)

    @given(documents)
    @settings(deadline=None)
    def check(documents: list[Any]) -> None:
        body = json.dumps({"query": "dress", "documents": documents, "return_documents": True})
        answer = client.post("/v2/rerank", content=body.replace("Infinity", "1e999"))  # as JSON can say it
        if answer.status_code != 200:
            assert answer.status_code == 422, answer.text
            assert answer.json()["error"]["param"].startswith("documents[")
            return
        results = answer.json()["results"]
        assert sorted(row["index"] for row in results) == list(range(len(documents)))
        scores = [row["relevance_score"] for row in results]
        assert scores == sorted(scores, reverse=True)

    check()
