"""The same requests by every way in: the class, the command line, batch, the gateway, and each framework."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from genrank import Request, Reranker, sample_shop
from genrank.cli.main import main
from genrank.data.jsonl import interaction_fields, request_fields, write_jsonl
from genrank.types import Candidate, Interaction
from tests.parity import Once

pytestmark = pytest.mark.model
REQUESTS = int(os.environ.get("GENRANK_REQUESTS", "6"))
CANDIDATES = 5
Orders = list[list[str]]


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    """Searches of the sample shop, each with some of its candidates in an order of their own."""
    shop, drawn = sample_shop(), random.Random(0)
    known = [shop.request(one) for one in shop.queries]
    found = []
    for i in range(REQUESTS):
        one = known[i * 7 % len(known)]
        candidates = tuple(Candidate(candidate.listing) for candidate in drawn.sample(one.candidates, CANDIDATES))
        found.append(Request(one.query, candidates, history=one.history[-2:]))
    return found


@pytest.fixture(scope="module")
def engine(exact_engine: Any) -> Any:
    """Most ways ask the model what another one has asked."""
    return Once(exact_engine)


@pytest.fixture(scope="module")
def reranker(engine: Any) -> Iterator[Reranker]:
    with Reranker(engine=engine) as made:
        yield made


@pytest.fixture(scope="module")
def orders(reranker: Reranker, requests: Sequence[Request]) -> Orders:
    """What the class answers to each request alone."""
    return [ids(reranker.rerank(one.query, one.candidates, history=one.history)) for one in requests]


def ids(ranking: Any) -> list[str]:
    assert ranking.provenance.outcome == "model"
    return [item.listing_id for item in ranking]


def past(history: Sequence[Interaction]) -> list[dict[str, Any]]:
    return [interaction_fields(one) for one in history]


@pytest.mark.parametrize("command", ["rerank", "batch"])
def test_a_command(command: str, requests: list[Request], orders: Orders, smollm2: str, tmp_path: Path) -> None:
    asked, out = tmp_path / "requests.jsonl", tmp_path / "rankings.jsonl"
    write_jsonl(asked, ({**request_fields(one), "query_id": f"r{i}"} for i, one in enumerate(requests)))
    place = ["-o", str(out)] if command == "rerank" else [str(out)]
    assert main([command, str(asked), *place, "--model", smollm2, "--dtype", "float32"]) == 0
    answers = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    found = {one["query_id"]: [item["listing_id"] for item in one["items"]] for one in answers}
    assert [found[f"r{i}"] for i in range(len(requests))] == orders


def test_the_gateway(requests: list[Request], orders: Orders, engine: Any) -> None:
    pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'genrank[server]'")
    from starlette.testclient import TestClient

    from genrank.server.app import create_app
    from genrank.server.config import Config
    from genrank.server.gateway import Gateway

    found = []
    with TestClient(create_app(Gateway(Reranker(engine=engine), Config()))) as client:
        for one in requests:
            documents = [candidate.listing.to_dict() for candidate in one.candidates]
            body = {"query": one.query.text, "documents": documents, "history": past(one.history)}
            answer = client.post("/v2/rerank", json=body).json()
            found.append([documents[result["index"]]["listing_id"] for result in answer["results"]])
    assert found == orders


def test_langchain(requests: list[Request], orders: Orders, reranker: Reranker) -> None:
    documents = pytest.importorskip("langchain_core.documents")
    from genrank.integrations.langchain import GenrankCompressor

    def order(one: Request) -> list[str]:
        compressor = GenrankCompressor(reranker=reranker, history=one.history)
        read = [documents.Document(**text_and(metadata, "page_content")) for metadata in all_fields(one)]
        return [found.metadata["listing_id"] for found in compressor.compress_documents(read, one.query.text)]

    assert [order(one) for one in requests] == orders


def test_llamaindex(requests: list[Request], orders: Orders, reranker: Reranker) -> None:
    schema = pytest.importorskip("llama_index.core.schema")
    from genrank.integrations.llamaindex import GenrankPostprocessor

    def order(one: Request) -> list[str]:
        postprocessor = GenrankPostprocessor(reranker=reranker, history=one.history)
        nodes = [
            schema.NodeWithScore(node=schema.TextNode(**text_and(metadata, "text"))) for metadata in all_fields(one)
        ]
        found = postprocessor.postprocess_nodes(nodes, query_str=one.query.text)
        return [node.metadata["listing_id"] for node in found]

    assert [order(one) for one in requests] == orders


def test_haystack(requests: list[Request], orders: Orders, reranker: Reranker) -> None:
    haystack = pytest.importorskip("haystack")
    from genrank.integrations.haystack import GenrankRanker

    ranker = GenrankRanker(reranker=reranker)

    def order(one: Request) -> list[str]:
        read = [haystack.Document(**text_and(metadata, "content", "meta")) for metadata in all_fields(one)]
        found = ranker.run(one.query.text, read, history=past(one.history))
        return [document.meta["listing_id"] for document in found["documents"]]

    assert [order(one) for one in requests] == orders


def test_pyterrier(requests: list[Request], orders: Orders, reranker: Reranker) -> None:
    pytest.importorskip("pyterrier")
    import pandas as pd

    from genrank.integrations.pyterrier import GenrankTransformer

    rows = []
    for i, one in enumerate(requests):
        shared = {"qid": f"r{i}", "query": one.query.text, "history": past(one.history)}
        for metadata in all_fields(one):
            text = metadata.pop("description", "")
            rows.append({**shared, "docno": metadata.pop("listing_id"), "text": text, **metadata})
    answer = GenrankTransformer(reranker).transform(pd.DataFrame(rows))
    found = dict(answer.groupby("qid")["docno"].agg(list))
    assert [found[f"r{i}"] for i in range(len(requests))] == orders


def test_a_cross_encoder(requests: list[Request], reranker: Reranker) -> None:
    """It takes no history."""
    from genrank.integrations.cross_encoder import GenrankCrossEncoder

    model = GenrankCrossEncoder(reranker)
    for one in requests:
        listings = [candidate.listing for candidate in one.candidates]
        found = [listings[item["corpus_id"]].listing_id for item in model.rank(one.query.text, listings)]
        assert found == ids(reranker.rerank(one.query, listings))


def test_mcp(requests: list[Request], orders: Orders, reranker: Reranker) -> None:
    mcp = pytest.importorskip("mcp")
    from genrank.integrations.mcp import TOOL, create_server

    async def ask() -> Orders:
        found = []
        async with mcp.Client(create_server(reranker)) as client:
            for one in requests:
                documents = [{**metadata, "id": metadata["listing_id"]} for metadata in all_fields(one)]
                call = {"query": one.query.text, "documents": documents, "history": past(one.history)}
                answer = (await client.call_tool(TOOL.name, call)).structured_content
                found.append([item["id"] for item in answer["items"]])
        return found

    assert asyncio.run(ask()) == orders


def all_fields(request: Request) -> list[dict[str, Any]]:
    return [candidate.listing.to_dict() for candidate in request.candidates]


def text_and(metadata: dict[str, Any], text: str, others: str = "metadata") -> dict[str, Any]:
    """A framework's document: the description is its text."""
    return {text: metadata.pop("description", ""), others: metadata}
