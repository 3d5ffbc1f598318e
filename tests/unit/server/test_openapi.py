"""The OpenAPI document is true: requests made from it, right and wrong ones, get the answers that it describes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.unit.server.conftest import Serve

schemathesis: Any = pytest.importorskip("schemathesis")

LIMITS = {"documents": 50, "text": 500, "body": 20_000}
RANKING = ["/v2/rerank", "/v1/rerank", "/rerank"]
OTHERS = ["/info", "/v1/models", "/health", "/ready", "/metrics"]


def examine(
    serve: Serve, path: str, method: str, count: int, *, expected: frozenset[int] = frozenset({200}), **sections: Any
) -> None:
    """Send `count` requests that fit the schema and as many that do not; every answer must fit it."""
    client = serve(limits=LIMITS, **sections)
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
            sent = {} if method != "POST" else {"content": json.dumps(body).encode()}
            names = {name: quote(str(value), safe="") for name, value in (case.path_parameters or {}).items()}
            answer = client.request(method, path.format(**names), params=case.query or None, **sent)
            statuses.add(answer.status_code)
            assert answer.status_code < 500, answer.text
            if answer.headers["content-type"].startswith("application/json"):
                operation.validate_response(schemathesis.Response.from_any(answer))

        check()
    assert expected <= statuses
    assert method != "POST" or 422 in statuses


@pytest.mark.parametrize("path", RANKING)
def test_no_request_made_from_the_document_breaks_the_server(serve: Serve, path: str) -> None:
    examine(serve, path, "POST", 40)


@pytest.mark.parametrize("path", OTHERS)
def test_the_other_paths_answer_as_described(serve: Serve, path: str) -> None:
    examine(serve, path, "GET", 1)


@pytest.fixture
def searching(tmp_path: Path) -> dict[str, Any]:
    """A section of the configuration, for a small index."""
    pytest.importorskip("duckdb")
    from genrank.search.index import Index

    with Index.create(tmp_path / "index") as index:
        index.add([{"listing_id": f"l{i}", "title": title} for i, title in enumerate(["Red dress", "0", "Blue coat"])])
    return {name: str(tmp_path / name) for name in ("index", "shoppers", "log")} | {"candidates": 3}


@pytest.mark.parametrize(
    ("path", "method", "expected"),
    [
        ("/v1/search", "POST", {200}),
        ("/v1/events", "POST", {404}),  # made-up searches
        ("/v1/shoppers/{user_id}", "DELETE", {200}),
    ],
)
def test_searches_events_and_forgetting_answer_as_described(
    serve: Serve, searching: dict[str, Any], path: str, method: str, expected: set[int]
) -> None:
    examine(serve, path, method, 25, expected=frozenset(expected), search=searching)


def test_an_event_is_answered_as_described(serve: Serve, searching: dict[str, Any]) -> None:
    client = serve(search=searching)
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    found = client.post("/v1/search", json={"query": "dress"}).json()
    body = {"request_id": found["request_id"], "listing_id": found["items"][0]["listing_id"], "event": "cart"}
    answer = client.post("/v1/events", json=body)
    assert answer.status_code == 200
    schema["/v1/events"]["POST"].validate_response(schemathesis.Response.from_any(answer))


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


def test_any_json_in_any_field_of_a_search_is_answered(serve: Serve, searching: dict[str, Any]) -> None:
    client = serve(limits=LIMITS, search=searching)
    fields = ("query", "user_id", "history", "top_k", "reasons", "variety", "deadline")
    filters = ("price_min", "currency", "category", "brand", "attributes", "without_words", "without_ids")
    part = st.dictionaries(st.sampled_from(filters), json_values | st.lists(st.text()), max_size=2)

    @given(
        body=st.dictionaries(st.sampled_from(fields), json_values),
        query=st.none() | st.text(),
        conditions=st.none() | part,
    )
    @settings(deadline=None, max_examples=60)
    def check(body: dict[str, Any], query: str | None, conditions: dict[str, Any] | None) -> None:
        body = body | ({"query": query} if query is not None else {}) | {"filters": conditions}
        answer = client.post("/v1/search", content=json.dumps(body).encode("utf-8", "surrogatepass"))
        assert answer.status_code in (200, 413, 422), answer.text

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
