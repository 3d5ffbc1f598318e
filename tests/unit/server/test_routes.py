"""What the playground asks the gateway."""

from __future__ import annotations

from typing import Any

import pytest

from genrank.cascade import Cascade
from genrank.data.dataset import sample_shop
from genrank.reranker import Reranker
from genrank.server.app import create_app
from genrank.server.config import Config
from genrank.server.gateway import Gateway
from genrank.testing import OracleEngine
from tests.unit.server.conftest import GRADES, Serve, SlowEngine

KEY = "a-long-secret-key"
BODY: dict[str, Any] = {"query": "red dress", "documents": ["Blue coat", "Red hat", "Red dress"]}
LISTINGS = [{"listing_id": "p1", "title": "Blue coat"}, {"listing_id": "p2", "title": "Red dress"}]
PAST = {"event": "click", "listing": {"listing_id": "h", "title": "Straw hat", "brand": "Acme"}, "query": "hats"}


def text(answer: Any) -> str:
    return "".join(token for section in answer.json()["sections"] for token in section["tokens"])


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "setup"), ("GET", "shop"), ("POST", "rerank"), ("POST", "prompt")],
)
def test_what_it_asks_needs_the_key(serve: Serve, method: str, path: str) -> None:
    client = serve([KEY])
    assert client.request(method, f"/playground/{path}", json=BODY).status_code == 401
    header = {"Authorization": f"Bearer {KEY}"}
    assert client.request(method, f"/playground/{path}", json=BODY, headers=header).status_code == 200


def test_rankings_and_prompts_count_towards_the_rate(serve: Serve) -> None:
    client = serve(auth={"rate_limit": "3/minute"})
    paths = ["/playground/prompt", "/playground/rerank", "/rerank", "/playground/prompt", "/playground/rerank"]
    assert [client.post(path, json=BODY).status_code for path in paths] == [200, 200, 200, 429, 429]
    assert client.get("/playground/setup").status_code == 200


def test_setup_says_what_can_be_chosen(serve: Serve) -> None:
    setup = serve(model={"name": "shop"}, limits={"reasons": 2}).get("/playground/setup").json()
    assert (setup["model"], setup["reasons"]) == ("shop", 2)
    assert setup["readings"][0] == {
        "name": "served", "decoding": "pointwise", "prompt": "pointwise@2", "then": "", "reasons": True,
    }  # fmt: skip
    assert "inline/inline" in {reading["name"] for reading in setup["readings"]}


def test_the_sample_shop_can_be_sent_as_it_comes(serve: Serve) -> None:
    client = serve()
    shop = client.get("/playground/shop").json()
    listings = {listing["listing_id"]: listing for listing in shop["listings"]}
    assert len(shop["queries"]) == len(sample_shop().queries)
    for query in (shop["queries"][0], shop["queries"][-1]):
        documents = [listings[one["listing_id"]] | {"score": one["score"]} for one in query["documents"]]
        body = {"query": query["query"], "history": query["history"], "documents": documents}
        answer = client.post("/playground/rerank", json=body)
        assert sorted(row["index"] for row in answer.json()["results"]) == list(range(len(documents)))


@pytest.mark.parametrize("reading", [None, "served", "inline/inline", "first-token/listwise", "listwise/listwise"])
def test_every_reading_ranks_with_the_same_engine(serve: Serve, engine: SlowEngine, reading: str | None) -> None:
    answer = serve().post("/playground/rerank", json=BODY | {"reading": reading, "reasons": 1}).json()
    assert [row["index"] for row in answer["results"]] == [2, 1, 0]
    assert answer["genrank"]["decoding"] == ("pointwise" if reading in (None, "served") else reading.split("/")[0])
    assert answer["reading"] == (reading or "served")
    assert engine.requests


def test_readings_do_not_share_kept_answers(serve: Serve) -> None:
    client = serve()

    def ask(reading: str) -> tuple[bool, str]:
        made = client.post("/playground/rerank", json=BODY | {"reading": reading}).json()["genrank"]
        return made["cached"], made["decoding"]

    found = [ask(reading) for reading in ("served", "inline/inline", "served", "inline/inline")]
    assert found == [(False, "pointwise"), (False, "inline"), (True, "pointwise"), (True, "inline")]


def test_the_time_is_told_by_stage(serve: Serve, engine: SlowEngine) -> None:
    engine.seconds = 0.05
    seconds = serve().post("/playground/rerank", json=BODY).json()["seconds"]
    assert 0.05 <= seconds["ranking"] <= seconds["gateway"]
    assert "second_stage" not in seconds


def test_of_a_cascade_each_stage_is_timed_and_the_first_ones_prompt_shown() -> None:
    from starlette.testclient import TestClient

    first = Reranker(engine=OracleEngine(GRADES), decoding="pointwise")
    cascade = Cascade(first, Reranker(engine=first.engine, decoding="inline"), top=2)
    with TestClient(create_app(Gateway(cascade, Config()))) as client:
        answer = client.post("/playground/rerank", json=BODY).json()
        assert 0 < answer["seconds"]["second_stage"] < answer["seconds"]["ranking"]
        assert [row["index"] for row in answer["results"]] == [2, 1, 0]
        alone = client.post("/playground/rerank", json=BODY | {"reading": "pointwise/pointwise"}).json()
        assert "second_stage" not in alone["seconds"]
        assert client.post("/playground/prompt", json=BODY).json()["prompts"] == 3


def test_the_prompt_is_the_one_that_the_engine_gets(serve: Serve, engine: SlowEngine) -> None:
    client = serve()
    for reading, count in (("served", 3), ("inline/inline", 2)):
        engine.requests.clear()
        body = BODY | {"history": [PAST], "reading": reading}
        client.post("/playground/rerank", json=body)
        sent = [engine.tokenizer.decode(request.ids) for request in engine.requests]
        shown = [client.post("/playground/prompt", json=body | {"prompt": i}) for i in range(count)]
        assert [text(answer) for answer in shown] == sent
        assert {answer.json()["prompts"] for answer in shown} == {count}
        assert all(answer.json()["exact"] for answer in shown)
    assert [answer.json()["listings"] for answer in shown] == [[0, 1, 2], [2, 1, 0]]


def test_a_prompt_names_its_sections_and_cuts(serve: Serve) -> None:
    client = serve(reranker={"max_prompt_tokens": 80})
    body = {
        "query": "red dress",
        "documents": [{"listing_id": "a", "title": "Dress", "description": " ".join(map(str, range(99)))}],
    }
    answer = client.post("/playground/prompt", json=body).json()
    names = [section["name"] for section in answer["sections"]]
    assert sorted(names) == ["candidates", "instruction", "query", "system"]
    assert answer["cuts"]["candidates"] > 0
    assert sum(len(section["tokens"]) for section in answer["sections"]) <= 80


def test_masked_fields_are_not_in_the_prompt(serve: Serve) -> None:
    client = serve(privacy={"mask": ["listing.brand"]})
    shown = text(client.post("/playground/prompt", json=BODY | {"history": [PAST]}))
    assert "Straw hat" in shown
    assert "Acme" not in shown


def test_places_are_those_of_the_documents_as_sent(serve: Serve) -> None:
    body = {"query": "dress", "documents": [" ", "Red dress"]}
    assert serve().post("/playground/prompt", json=body).json()["listings"] == [1]


@pytest.mark.parametrize(
    ("path", "change", "field", "message"),
    [
        ("rerank", {"reading": "magic"}, "reading", "there is no 'magic'"),
        ("rerank", {"reading": 3}, "reading", "text"),
        ("prompt", {"prompt": 3}, "prompt", "has 3 prompts, so at most 2"),
        ("prompt", {"prompt": -1}, "prompt", "greater than or equal to 0"),
        ("prompt", {"documents": [" "]}, "documents", "no document holds a visible character"),
        ("prompt", {"documents": [{"title": "A", "rating": 9}]}, "documents[0].rating", "5"),
        ("prompt", {"query": " "}, "query", "visible"),
    ],
)
def test_what_is_wrong_is_named(serve: Serve, path: str, change: dict[str, Any], field: str, message: str) -> None:
    answer = serve().post(f"/playground/{path}", json=BODY | change)
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == field
    assert message in answer.json()["message"]


def test_a_prompt_without_room_is_too_large(serve: Serve) -> None:
    answer = serve(reranker={"max_prompt_tokens": 10}).post("/playground/prompt", json=BODY)
    assert (answer.status_code, answer.json()["error"]["param"]) == (413, "documents")


def test_it_is_no_part_of_the_api(serve: Serve) -> None:
    assert not [path for path in serve().get("/openapi.json").json()["paths"] if "playground" in path or path == "/"]
