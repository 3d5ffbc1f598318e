"""The traps of the clients: what they send, and what they trip over in an answer."""

from __future__ import annotations

import itertools
import json
import math
import time
from typing import Any

import pytest

from genrank.engines.base import ScoreRequest
from tests.unit.server.conftest import Serve, SlowEngine, hang_up

PATHS = ("/v2/rerank", "/v1/rerank", "/rerank")
QUERY = {"query": "red dress"}
PAST = {"event": "click", "listing": {"listing_id": "h", "title": "A"}}
TITLES = ["Blue coat", "Red hat", "Red dress"]


def scored(answer: Any) -> list[tuple[int, float]]:
    """The places and scores of an answer in any shape."""
    body = answer.json()
    rows = body if isinstance(body, list) else body.get("results") or body["data"]
    return [(row["index"], row.get("relevance_score", row.get("score"))) for row in rows]


@pytest.mark.parametrize("path", [*PATHS, "/v1/v2/rerank", "/v1/v1/rerank", "/v1//rerank", "//v2/rerank/", "/rerank/"])
def test_every_path_that_clients_call_ranks(serve: Serve, path: str) -> None:
    answer = serve().post(path, json=QUERY | {"documents": TITLES})
    assert answer.status_code == 200
    assert [place for place, _ in scored(answer)] == [2, 1, 0]


SENT: dict[str, tuple[str, dict[str, Any]]] = {
    "cohere 5 to 7, v2": ("/v2/rerank", {"documents": TITLES, "model": "oracle", "max_tokens_per_doc": None,
                                         "top_n": None, "priority": None, "relevant_spans": None}),
    "cohere, v1": ("/v1/rerank", {"documents": [{"text": title} for title in TITLES], "rank_fields": ["text"],
                                  "return_documents": False, "max_chunks_per_doc": None, "top_n": None}),
    "jina": ("/v1/rerank", {"documents": TITLES, "model": "oracle", "top_n": 3, "return_documents": False}),
    "vllm": ("/v1/rerank", {"documents": TITLES, "model": "oracle", "top_n": 0, "truncate_prompt_tokens": None}),
    "voyage": ("/v1/rerank", {"documents": TITLES, "model": "oracle", "top_k": None, "truncation": True}),
    "tei": ("/rerank", {"texts": TITLES, "raw_scores": False, "return_text": False, "truncate": True}),
    "elasticsearch": ("/v1/rerank", {"documents": TITLES, "model": "oracle"}),
    "dify": ("/v1/rerank", {"documents": TITLES, "model": "oracle", "top_n": None}),
}  # fmt: skip


@pytest.mark.parametrize("client", SENT)
def test_every_client_gets_each_place_once_sorted_with_scores(serve: Serve, client: str) -> None:
    path, body = SENT[client]
    answer = serve().post(path, json=QUERY | body)
    assert answer.status_code == 200, answer.text
    found = scored(answer)
    assert [place for place, _ in found] == [2, 1, 0]
    assert all(0 <= score <= 1 and math.isfinite(score) and isinstance(score, float) for _, score in found)
    assert all(first >= second for (_, first), (_, second) in itertools.pairwise(found))
    assert "document" not in answer.text.replace("documents", "")
    shape = {"voyage": "data", "tei": None}.get(client, "results")
    assert isinstance(answer.json(), list) if shape is None else shape in answer.json()


@pytest.mark.parametrize(("wanted", "count"), [(0, 3), (None, 3), (1, 1), (3, 3), (99, 3)])
@pytest.mark.parametrize("name", ["top_n", "top_k"])
def test_as_many_results_as_are_wanted(serve: Serve, name: str, wanted: int | None, count: int) -> None:
    assert len(scored(serve().post("/v1/rerank", json=QUERY | {"documents": TITLES, name: wanted}))) == count


def test_null_is_as_if_left_out_everywhere(serve: Serve) -> None:
    names = ("texts", "model", "top_n", "return_documents", "return_text", "rank_fields", "history", "reasons",
             "instruction", "priority")  # fmt: skip
    answer = serve().post("/v2/rerank", json=QUERY | {"documents": TITLES} | dict.fromkeys(names))
    assert len(scored(answer)) == 3


def test_repeated_documents_keep_their_places(serve: Serve) -> None:
    answer = serve().post("/rerank", json=QUERY | {"documents": ["A", "A", {"title": "B", "id": "p2"},
                                                                 {"title": "B", "id": "p2"}, "A"]})  # fmt: skip
    assert sorted(place for place, _ in scored(answer)) == [0, 1, 2, 3, 4]


def test_ties_stay_in_order(serve: Serve) -> None:
    documents = [{"title": f"Title {i}", "id": f"same-{i}"} for i in range(5)]
    assert [place for place, _ in scored(serve().post("/rerank", json=QUERY | {"documents": documents}))] == [*range(5)]


def test_empty_documents_come_last_with_nothing(serve: Serve) -> None:
    answer = serve().post("/rerank", json=QUERY | {"documents": ["", "A", " ", {}, "B"]})
    assert scored(answer)[2:] == [(0, 0.0), (2, 0.0), (3, 0.0)]
    assert [place for place, _ in scored(answer)][:2] == [4, 1]
    assert scored(serve().post("/rerank", json=QUERY | {"texts": ["", ""]})) == [(0, 0.0), (1, 0.0)]


def test_a_document_comes_back_if_it_is_asked_for(serve: Serve) -> None:
    client = serve()
    body = QUERY | {"documents": ["A", {"title": "B", "brand": "Acme"}], "return_documents": True}
    found = client.post("/v2/rerank", json=body).json()["results"]
    assert [row["document"] for row in found] == [{"title": "B", "brand": "Acme", "text": "B"}, {"text": "A"}]
    found = client.post("/rerank", json=QUERY | {"texts": ["A", "B"], "return_text": True}).json()
    assert [row["text"] for row in found] == ["B", "A"]


def test_listings_history_and_reasons_reach_the_model(serve: Serve, engine: SlowEngine) -> None:
    read: list[str] = []
    tokenizer: Any = engine.tokenizer
    answer_to = engine._answer_to

    def remember(request: Any) -> Any:
        words = {number: word for word, number in tokenizer._ids.items()}
        read.append("".join(words[number] for number in request.ids))
        return answer_to(request)

    engine._answer_to = remember
    body = {
        "query": "red dress",
        "documents": [{"listing_id": "p1", "title": "Coat"},
                      {"listing_id": "p2", "title": "Dress", "brand": "Acme", "attributes": {"colour": "red"}}],
        "history": [{"event": "purchase", "time": "2026-05-01T10:00:00Z", "query": "hidden words",
                     "listing": {"listing_id": "h1", "title": "Straw hat", "brand": "Hidden"}}],
        "reasons": 1,
    }  # fmt: skip
    client = serve(privacy={"mask": ["query", "listing.brand"]})
    result, other = client.post("/v2/rerank", json=body).json()["results"]
    assert (result["index"], result["listing_id"]) == (1, "p2")
    assert result["reason"]
    assert result["evidence"]
    assert "reason" not in other
    text = "\n".join(read)
    assert "Acme" in text
    assert "Straw hat" in text
    assert "idden" not in text, "what is masked"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"query": ""}, 422, "query"),
        ({"query": " \n"}, 422, "query"),
        ({"query": 3}, 422, "query"),
        ({"documents": None}, 422, "documents"),
        ({"documents": []}, 422, "documents"),
        ({"documents": "A"}, 422, "documents"),
        ({"documents": ["A", 3]}, 422, "documents[1]"),
        ({"documents": ["A", {"title": "B", "price": {"amount": "much"}}]}, 422, "documents[1].price.amount"),
        ({"top_n": -1}, 422, "top_n"),
        ({"top_n": 1.5}, 422, "top_n"),
        ({"model": "gpt-9"}, 404, "model"),
        ({"reasons": 11}, 422, "reasons"),
        ({"instruction": "only cotton"}, 422, "instruction"),
        ({"history": [PAST | {"event": "saw"}]}, 422, "history[0].event"),
        ({"history": [PAST, {"event": "click", "listing": {"listing_id": "h"}}]}, 422, "history[1].listing.title"),
        ({"documents": ["A"] * 21}, 413, "documents"),
        ({"documents": ["A", "x" * 201]}, 413, "documents[1]"),
        ({"query": "x" * 201}, 413, "query"),
        ({"history": [PAST] * 4}, 413, "history"),
        ({"documents": ["x" * 200] * 16}, 413, "body"),
    ],
)  # fmt: skip
def test_bad_input_is_told_where_it_is(
    serve: Serve, path: str, change: dict[str, Any], status: int, field: str
) -> None:
    limits = {"documents": 20, "text": 200, "history": 3, "body": 3000}
    answer = serve(limits=limits).post(path, json=QUERY | {"documents": ["A"]} | change)
    assert answer.status_code == status
    body = answer.json()
    assert body["message"] == body["detail"] == body["error"]["message"]
    assert (body["error"]["param"], body["error"]["code"]) == (field, status)
    assert body["message"].startswith(field)


@pytest.mark.parametrize(
    ("change", "status", "kind"),
    [({"texts": []}, 400, "Empty"), ({"texts": ["A", 3]}, 422, "Validation"), ({"query": ""}, 422, "Validation"),
     ({"texts": ["A"] * 1001}, 413, "Validation")],
)  # fmt: skip
def test_teis_errors_are_texts(serve: Serve, change: dict[str, Any], status: int, kind: str) -> None:
    answer = serve().post("/rerank", json=QUERY | {"texts": ["A"]} | change)
    assert answer.status_code == status
    assert answer.json()["error_type"] == kind
    assert isinstance(answer.json()["error"], str)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b'{"query": "\\ud800", "documents": ["a"]}', b"\xff\xfe"])
def test_a_body_that_is_no_object_is_refused_whatever_its_type_says(serve: Serve, body: bytes) -> None:
    client = serve()
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded"):
        answer = client.post("/rerank", content=body, headers={"Content-Type": kind})
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, 422)
    right = json.dumps(QUERY | {"documents": ["A"]})
    assert client.post("/rerank", content=right, headers={"Content-Type": "text/plain"}).status_code == 200


def test_other_paths_and_methods_have_the_same_errors(serve: Serve) -> None:
    client = serve()
    assert client.get("/nothing").json()["error"]["type"] == "not_found_error"
    answer = client.get("/rerank")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["detail"]


def test_an_instruction_joins_the_query_where_the_server_says_so(serve: Serve, engine: SlowEngine) -> None:
    client = serve(model={"instructions": "query"})
    plain, more = QUERY | {"documents": TITLES}, QUERY | {"documents": TITLES, "instruction": "only cotton"}
    assert client.post("/rerank", json=plain).status_code == client.post("/rerank", json=more).status_code == 200
    words: Any = engine.tokenizer
    text = {number: word for word, number in words._ids.items()}
    asked = ["".join(text[number] for number in one.ids) for one in engine.requests if isinstance(one, ScoreRequest)]
    assert ["red dress (only cotton)" in prompt for prompt in asked] == [False] * 3 + [True] * 3


@pytest.mark.parametrize("path", PATHS)
def test_all_are_scored_when_the_model_is_down(serve: Serve, engine: SlowEngine, path: str) -> None:
    engine.failing = True
    answer = serve().post(path, json=QUERY | {"documents": TITLES, "top_n": 2})
    assert [place for place, _ in scored(answer)] == [0, 1]
    assert answer.headers["x-genrank-tier"] == "first-stage"
    details = answer.json()["genrank"]
    assert (details["tier"], details["outcome"], details["cause"]) == ("first-stage", "fallback", "engine-error")
    assert "secret" not in answer.text, "the engine's words hold a path"
    assert len(scored(serve().post("/rerank", json=QUERY | {"texts": TITLES}))) == 3


def test_the_server_can_be_told_to_refuse_then(serve: Serve, engine: SlowEngine) -> None:
    engine.failing = True
    client = serve(server={"when_down": "refuse"}, breaker={"failures": 1, "cool_down": 7})
    answer = client.post("/rerank", json=QUERY | {"documents": TITLES})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert answer.json()["error"]["type"] == "overloaded_error"
    assert client.get("/ready").status_code == 503
    assert client.get("/health").status_code == 200


def test_a_blend_needs_scores_and_names_the_document(serve: Serve) -> None:
    client = serve(reranker={"blend": 0.5})
    documents: list[Any] = [{"title": "A", "score": 2.0}, "", {"title": "B"}]
    answer = client.post("/rerank", json=QUERY | {"documents": documents})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "documents[2].score")
    documents[2]["score"] = 1
    assert client.post("/rerank", json=QUERY | {"documents": documents}).status_code == 200


def test_too_much_for_one_prompt_is_too_large(serve: Serve) -> None:
    client = serve(reranker={"decoding": "listwise", "strategy": "single", "max_prompt_tokens": 400})
    for count, status in ((2, 200), (200, 413)):
        answer = client.post("/rerank", json=QUERY | {"documents": ["A dress"] * count})
        assert answer.status_code == status
    assert answer.json()["error"]["param"] == "documents"


def test_the_cache_is_told_of(serve: Serve, engine: SlowEngine) -> None:
    client = serve()
    found = [client.post("/v2/rerank", json=QUERY | {"documents": TITLES, "top_n": n}).json() for n in (3, 1)]
    assert [body["genrank"]["cached"] for body in found] == [False, True]
    assert [len(body["results"]) for body in found] == [3, 1]
    assert found[0]["usage"]["total_tokens"] > 0
    assert len(engine.sizes) == 1
    assert 'genrank_cache_lookups_total{result="hit"} 1.0' in client.get("/metrics").text


def test_what_is_served_can_be_asked(serve: Serve) -> None:
    client = serve(model={"name": "shop", "aliases": ["rerank-v3.5"]})
    info = client.get("/info").json()
    assert info["model_id"] == "shop"
    assert "reranker" in info["model_type"]
    assert (info["decoding"], info["prompt"]) == ("pointwise", "pointwise@2")
    assert len(info["prompt_hash"]) == 16
    assert [row["id"] for row in client.get("/v1/models").json()["data"]] == ["shop", "rerank-v3.5"]
    for name in ("shop", "rerank-v3.5"):
        answer = client.post("/rerank", json=QUERY | {"documents": ["A"], "model": name})
        assert answer.json()["model"] == name
    assert client.get("/ready").json() == {"status": "ready", "breaker": "closed"}


def test_a_cached_answer_is_quick(serve: Serve) -> None:
    client = serve()
    body = QUERY | {"documents": TITLES}
    client.post("/rerank", json=body)
    times = []
    for _ in range(20):
        started = time.perf_counter()
        client.post("/rerank", json=body)
        times.append(time.perf_counter() - started)
    assert sorted(times)[10] < 0.05, "with a test client and on a busy machine; about 2 ms otherwise"


def test_a_request_is_traced_without_its_texts(engine: SlowEngine) -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from starlette.testclient import TestClient

    from genrank.reranker import Reranker
    from genrank.server.app import create_app
    from genrank.server.config import Config, TelemetryConfig
    from genrank.server.gateway import Gateway
    from genrank.server.telemetry import Tracing

    exporter = InMemorySpanExporter()
    gateway = Gateway(Reranker(engine=engine, decoding="pointwise"), Config())
    with TestClient(create_app(gateway, tracing=Tracing(TelemetryConfig(), exporter=exporter))) as client:
        client.post("/rerank", json=QUERY | {"documents": TITLES, "top_n": 2})
        client.post("/rerank", json=QUERY | {"documents": []})
    (span,) = exporter.get_finished_spans()  # sent when the app shut down
    attributes = dict(span.attributes or {})
    assert attributes["gen_ai.request.model"] == "oracle"
    assert attributes["reranker.top_k"] == 2
    assert attributes["genrank.tier"] == "model"
    assert isinstance(attributes["gen_ai.usage.input_tokens"], int)
    assert attributes["gen_ai.usage.input_tokens"] > 0
    assert "dress" not in str(attributes)


def test_a_client_that_hangs_up_stops_its_work(engine: SlowEngine) -> None:
    """A client that goes as soon as the engine has started."""
    from genrank.reranker import Reranker
    from genrank.server.app import create_app
    from genrank.server.config import Config
    from genrank.server.gateway import Gateway

    engine.seconds = 5.0
    app = create_app(Gateway(Reranker(engine=engine, decoding="pointwise"), Config()))
    seconds, sent = hang_up(app, engine, "/rerank", QUERY | {"documents": TITLES})
    assert seconds < 2
    assert engine.stopped.wait(2)
    assert sent[0]["status"] == 499
