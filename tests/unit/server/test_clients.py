"""Clients that nobody changed, against a real server."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.unit.server.conftest import Serve, SlowEngine

cohere: Any = pytest.importorskip("cohere")

KEY = "key-of-the-shop"
TITLES = ["Blue coat", "Red hat", "Red dress"]


@pytest.fixture
def base(listening: Serve) -> str:
    address: str = listening([KEY], model={"aliases": ["rerank-v3.5"]})
    return address


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_cohere_v2(base: str, suffix: str) -> None:
    with cohere.ClientV2(KEY, base_url=base + suffix) as client:
        answer = client.rerank(model="rerank-v3.5", query="red dress", documents=TITLES, top_n=2, max_tokens_per_doc=99)
    assert [result.index for result in answer.results] == [2, 1]
    assert answer.results[0].relevance_score > answer.results[1].relevance_score
    assert answer.meta.tokens.input_tokens > 0
    assert answer.genrank["tier"] == "model"


def test_cohere_v1_with_objects(base: str) -> None:
    documents = [{"text": title, "sku": str(i)} for i, title in enumerate(TITLES)]
    with cohere.Client(KEY, base_url=base) as client:
        answer = client.rerank(query="red", documents=documents, return_documents=True, rank_fields=["text", "sku"])
    assert [result.index for result in answer.results] == [2, 1, 0]
    assert answer.results[0].document.text == "Red dress"


def test_extensions_go_through_cohere(base: str) -> None:
    extra = {
        "history": [{"event": "purchase", "listing": {"listing_id": "h1", "title": "Red shoes"}}],
        "reasons": 1,
    }
    with cohere.ClientV2(KEY, base_url=base) as client:
        answer = client.rerank(
            model="rerank-v3.5", query="red dress", documents=TITLES,
            request_options={"additional_body_parameters": extra},
        )  # fmt: skip
    assert answer.results[0].reason
    assert answer.genrank["tier"] == "reasons"


def test_cohere_knows_the_errors(base: str) -> None:
    with cohere.ClientV2("another-key", base_url=base) as client, pytest.raises(cohere.errors.UnauthorizedError):
        client.rerank(model="rerank-v3.5", query="red", documents=TITLES)
    with cohere.ClientV2(KEY, base_url=base) as client:
        with pytest.raises(cohere.errors.NotFoundError):
            client.rerank(model="unknown", query="red", documents=TITLES)
        with pytest.raises(cohere.errors.UnprocessableEntityError) as caught:
            client.rerank(model="rerank-v3.5", query=" ", documents=TITLES)
    assert caught.value.body["error"]["param"] == "query"


def test_cohere_waits_as_long_as_it_is_told(listening: Serve, engine: SlowEngine) -> None:
    base = listening([KEY], model={"aliases": ["m"]}, auth={"rate_limit": "1/second"})
    with cohere.ClientV2(KEY, base_url=base) as client:
        started = time.monotonic()
        for query in ("red", "blue"):
            assert client.rerank(model="m", query=query, documents=TITLES).results
    assert time.monotonic() - started > 0.8, "the second one was refused, and tried again"
    assert len(engine.sizes) == 2
