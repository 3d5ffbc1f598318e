from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from genrank.server.edge import PATHS, PLAYGROUND_PATHS, PLAYGROUND_SEARCH, SEARCH_PATHS, plain_path
from genrank.server.playground.pages import FILES
from tests.unit.server.conftest import Serve, SlowEngine

BODY = {"query": "secret query", "documents": ["secret title"], "reasons": 1,
        "history": [{"event": "click", "listing": {"listing_id": "h", "title": "secret past"}}]}  # fmt: skip
KEY = "a-long-secret-key"


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("/v1/rerank/", "/v1/rerank"),
        ("/v1/v2/rerank", "/v2/rerank"),
        ("/v1/v1/rerank", "/v1/rerank"),
        ("//v2/rerank", "/v2/rerank"),
        ("/v1//rerank", "/v1/rerank"),
        ("/v1/v1/models", "/v1/models"),
        ("/", "/"),
        ("/v1", "/v1"),
        ("/v12/rerank", "/v12/rerank"),
        ("/v1/v1/search/", "/v1/search"),
        ("/v1//v1/shoppers/a//b/", "/v1/shoppers/a//b/"),
    ],
)
def test_paths_are_what_clients_mean(path: str, plain: str) -> None:
    assert plain_path(path) == plain


def test_every_path_is_known(serve: Serve) -> None:
    from starlette.routing import Route

    client = serve(server={"playground": False})
    assert {route.path for route in client.app.routes if isinstance(route, Route)} == set(PATHS)
    client = serve(server={"playground": True})
    known = {*PATHS, *PLAYGROUND_PATHS, *FILES}
    assert {route.path for route in client.app.routes if isinstance(route, Route)} == known


def test_every_path_of_a_server_that_searches_is_known(serve: Serve, tmp_path: Path) -> None:
    from starlette.routing import Route

    pytest.importorskip("duckdb")
    pytest.importorskip("symspellpy")
    from genrank.search.completion import Completion
    from genrank.search.index import Index

    with Index.create(tmp_path / "index") as index:
        Completion.of(index).close()
    search = {"index": str(tmp_path / "index"), "log": str(tmp_path / "log")}
    client = serve(server={"playground": True}, search=search)
    known = {*PATHS, *SEARCH_PATHS, *PLAYGROUND_PATHS, PLAYGROUND_SEARCH, *FILES}
    assert {route.path for route in client.app.routes if isinstance(route, Route)} == known


@pytest.mark.parametrize("path", ["/v1/models", "/info", "/metrics", "/openapi.json", "/nothing", "/docs"])
@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer \xff"}])
def test_every_path_but_health_needs_a_key(serve: Serve, path: str, header: dict[str, str]) -> None:
    client = serve([KEY])
    encoded = {name: value.encode("latin-1") for name, value in header.items()}
    answer = client.get(path, headers=encoded)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json()["error"]["type"] == "authentication_error"
    assert client.post("/rerank", json=BODY, headers=encoded).status_code == 401
    assert [client.get(open_path, headers=encoded).status_code for open_path in ("/health", "/ready")] == [200, 200]


def test_a_known_key_may_pass_with_and_without_bearer(serve: Serve) -> None:
    client = serve([KEY, "another-key"])
    for header in (f"Bearer {KEY}", KEY, "Bearer another-key"):
        assert client.post("/rerank", json=BODY, headers={"Authorization": header}).status_code == 200


def test_each_key_has_its_own_rate(serve: Serve) -> None:
    client = serve([KEY, "another-key"], auth={"rate_limit": "2/minute"})
    answers = [client.post("/rerank", json=BODY, headers={"Authorization": KEY}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 60
    assert client.post("/rerank", json=BODY, headers={"Authorization": "another-key"}).status_code == 200
    assert client.get("/info", headers={"Authorization": KEY}).status_code == 200, "only rankings count"


@pytest.mark.parametrize(("given", "kept"), [("shop-42", True), ("x" * 101, False), ("a\tb", False), ("", False)])
def test_a_request_has_an_id(serve: Serve, given: str, kept: bool) -> None:
    answer = serve().post("/v2/rerank", json=BODY, headers={"X-Request-Id": given})
    found = answer.headers["x-request-id"]
    assert found == answer.json()["id"]
    assert found == given if kept else re.fullmatch("[0-9a-f]{32}", found)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    found: dict[str, Any] = record.genrank_fields  # type: ignore[attr-defined]
    return found


def test_the_log_line_tells_sizes_and_outcomes_but_no_text(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    client = serve([KEY])
    with caplog.at_level(logging.INFO, "genrank.server"):
        client.post("/rerank", json=BODY, headers={"Authorization": KEY})
        client.post(f"/{KEY}", json=BODY, headers={"Authorization": "secret-but-wrong"})
        client.post("/rerank", json=BODY | {"model": "secret model"}, headers={"Authorization": KEY})
    ranked, lost, wrong = map(fields, caplog.records)
    assert ranked["seconds"] >= 0
    expected = {"path": "/rerank", "status": 200, "documents": 1, "history": 1, "reasons": 1, "tier": "reasons",
                "outcome": "model", "cached": False, "shape": "cohere"}  # fmt: skip
    assert {key: ranked[key] for key in expected} == expected
    assert (lost["path"], lost["status"]) == ("other", 401)
    assert wrong["status"] == 404
    assert "secret" not in json.dumps([ranked, lost, wrong])


def test_health_is_not_logged_as_long_as_it_is_good(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    client = serve()
    with caplog.at_level(logging.INFO, "genrank.server"):
        client.get("/health")
    assert not caplog.records


def test_a_bug_shows_neither_stack_nor_path(
    serve: Serve, engine: SlowEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret in /secret/path.py")

    monkeypatch.setattr("genrank.server.calls.read_documents", broken)
    with caplog.at_level(logging.INFO, "genrank.server"):
        answer = serve().post("/rerank", json=BODY)
    assert answer.status_code == 500
    assert answer.json()["message"] == "the server failed to answer this request"
    (record,) = caplog.records
    assert (record.levelname, fields(record)["error"], record.exc_info) == ("ERROR", "ZeroDivisionError", None)
    assert "secret" not in answer.text + json.dumps(fields(record))


def test_responses_are_counted(serve: Serve) -> None:
    client = serve()
    client.post("/rerank", json=BODY)
    client.get("/nothing")
    lines = client.get("/metrics").text.splitlines()
    assert 'genrank_http_responses_total{status="200"} 1.0' in lines
    assert 'genrank_http_responses_total{status="404"} 1.0' in lines
