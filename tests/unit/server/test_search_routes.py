from __future__ import annotations

from typing import Any

import pytest

from tests.unit.server.conftest import Serve, Shop, SlowEngine, event

QUERY = "linen dress"


def test_without_an_index_the_paths_say_what_is_missing(serve: Serve, folder: str) -> None:
    client = serve()
    for method, path in (("POST", "/v1/search"), ("POST", "/v1/events"), ("DELETE", "/v1/shoppers/u1")):
        answer = client.request(method, path)
        assert answer.status_code == 404
        assert "[search]" in answer.json()["message"]
    assert "/v1/search" not in client.get("/openapi.json").json()["paths"]
    client = serve(search={"index": folder})
    assert {"/v1/search"} == {path for path in client.get("/openapi.json").json()["paths"] if "search" in path}
    assert client.post("/v1/events", json={}).status_code == 404, "without a log"


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"query": None}, 422, "query"),
        ({"query": " "}, 422, "query"),
        ({"query": "x" * 501}, 413, "query"),
        ({"user_id": "a\tb"}, 422, "user_id"),
        ({"history": [{"event": "click"}]}, 422, "history[0].listing"),
        ({"history": [{"event": "click", "listing": {"listing_id": "h", "title": "A"}}] * 3}, 413, "history"),
        ({"filters": {"colour": "red"}}, 422, "filters.colour"),
        ({"filters": {"price_min": 9, "price_max": 1}}, 422, "filters.price_min"),
        ({"filters": {"brand": ""}}, 422, "filters.brand"),
        ({"top_k": -1}, 422, "top_k"),
        ({"reasons": 11}, 422, "reasons"),
        ({"variety": 1.5}, 422, "variety"),
        ({"variety": True}, 422, "variety"),
        ({"deadline": 0}, 422, "deadline"),
        ({"deadline": 31}, 422, "deadline"),
    ],
)
def test_what_is_wrong_is_named(serve: Serve, folder: str, change: dict[str, Any], status: int, field: str) -> None:
    client = serve(search={"index": folder}, limits={"text": 500, "history": 2})
    answer = client.post("/v1/search", json={"query": QUERY} | change)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, field)


def test_null_and_unknown_fields_are_as_if_left_out(serve: Serve, folder: str) -> None:
    client = serve(search={"index": folder})
    names = ("user_id", "history", "filters", "top_k", "reasons", "variety", "deadline", "colour")
    assert client.post("/v1/search", json={"query": QUERY} | dict.fromkeys(names)).json()["items"]


def test_a_search_is_traced_by_stage(engine: SlowEngine, folder: str) -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from starlette.testclient import TestClient

    from genrank.reranker import Reranker
    from genrank.server.app import create_app
    from genrank.server.config import Config, TelemetryConfig
    from genrank.server.gateway import Gateway
    from genrank.server.telemetry import Tracing

    exporter = InMemorySpanExporter()
    config = Config.model_validate({"search": {"index": folder}})
    gateway = Gateway(Reranker(engine=engine, decoding="pointwise"), config)
    with TestClient(create_app(gateway, tracing=Tracing(TelemetryConfig(), exporter=exporter))) as client:
        client.post("/v1/search", json={"query": QUERY})
    (span,) = exporter.get_finished_spans()
    attributes = dict(span.attributes or {})
    assert span.name == "search"
    assert attributes["genrank.tier"] == "model"
    assert {"genrank.stage.match.seconds", "genrank.stage.rank.seconds"} <= attributes.keys()
    assert "dress" not in str(attributes)


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"request_id": "none"}, 404, "request_id"),
        ({"listing_id": "none"}, 422, "listing_id"),
        ({"event": "view"}, 422, "event"),
        ({"event": None}, 422, "event"),
        ({"time": "yesterday"}, 422, "time"),
        ({"time": "0001-01-01T00:00:00+10:00"}, 422, "time"),
        ({"event_id": ""}, 422, "event_id"),
        ({"user_id": ""}, 422, "user_id"),
        ({"request_id": "\0'; --"}, 404, "request_id"),
    ],
)
def test_a_wrong_event_is_named(shop: Shop, change: dict[str, Any], status: int, field: str) -> None:
    client, answer = shop
    told = client.post("/v1/events", json=event(answer) | change)
    assert (told.status_code, told.json()["error"]["param"]) == (status, field)
