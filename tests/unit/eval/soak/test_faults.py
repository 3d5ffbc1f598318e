from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from contextlib import closing
from typing import Any

import httpx
import pytest

from eval.soak.faults import SHAPES, FaultProxy
from eval.soak.wire import MOST_BYTES, response
from genrank.remote.chat_engine import ChatEngine
from genrank.remote.vllm_server import VLLMServer
from genrank.reranker import Reranker
from genrank.types import Decoding
from tests.chat_double import ChatDouble
from tests.vllm_double import double

GRADES = {str(i): float(i) for i in range(6)}
TITLES = [f"title {i}" for i in range(6)]


def spoiled(got: httpx.Response, spoil: Callable[[bytes], bytes]) -> httpx.Response:
    head, _, body = spoil(got.content).partition(b"\r\n\r\n")
    return httpx.Response(int(head.split()[1]), content=body)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("decoding", ["pointwise", "inline", "listwise"])
def test_however_vllm_answers_nothing_is_lost(shape: str, decoding: Decoding) -> None:
    server = double(GRADES)
    spoiling = False

    async def serve(request: httpx.Request) -> httpx.Response:
        got = await server._serve(request)
        return spoiled(got, SHAPES[shape]) if spoiling else got

    transport = httpx.MockTransport(serve)
    with closing(
        VLLMServer("http://v/v1", tokenizer=server.oracle.tokenizer, attempts=1, transport=transport)
    ) as engine:
        reranker = Reranker(engine=engine, decoding=decoding)
        spoiling = True
        ranking = reranker.rerank("q", TITLES, reasons=2)
        spoiling = False
        again = reranker.rerank("q", TITLES, reasons=2)
    assert sorted(item.listing_id for item in ranking) == sorted(GRADES)
    assert [item.listing_id for item in again] == sorted(GRADES, reverse=True)
    assert again.provenance.outcome == "model"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("top", [0, 5])
def test_however_a_chat_endpoint_answers_nothing_is_lost(shape: str, top: int) -> None:
    server = ChatDouble(GRADES, top=top, enforces=["json_schema"])
    spoiling = False

    def serve(request: httpx.Request) -> httpx.Response:
        got = server._serve(request)
        return spoiled(got, SHAPES[shape]) if spoiling else got

    with closing(ChatEngine("http://c/v1", "m", attempts=1, transport=httpx.MockTransport(serve))) as engine:
        spoiling = True
        ranking = Reranker(engine=engine).rerank("q", TITLES, reasons=2)
    assert sorted(item.listing_id for item in ranking) == sorted(GRADES)


class Origin:
    """A server that counts requests and answers each with a JSON object."""

    def __init__(self) -> None:
        self.asked = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        writer.write(response(200, b'{"choices": [{"index": 0}]}'))
        await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def through(share: float, use: Callable[[FaultProxy, httpx.AsyncClient], Any]) -> Any:
    """What `use` does with a proxy before an `Origin`, and a client of the proxy."""

    async def body() -> Any:
        origin = await asyncio.start_server(Origin().serve, "127.0.0.1", 0, limit=MOST_BYTES)
        proxy = FaultProxy(f"http://127.0.0.1:{origin.sockets[0].getsockname()[1]}/v1", 0, share)
        await proxy.set_mode("plain")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{proxy.port}", trust_env=False, timeout=10) as client:
            found = await use(proxy, client)
        await proxy.close()
        origin.close()
        return found

    return asyncio.run(body())


def test_a_proxy_without_faults_changes_nothing() -> None:
    async def use(proxy: FaultProxy, client: httpx.AsyncClient) -> list[Any]:
        return [(await client.post("/v1/x", json={})).json() for _ in range(3)]

    assert through(1.0, use) == [{"choices": [{"index": 0}]}] * 3, "nothing is cut before it is told to"


def test_a_share_of_the_requests_loses_its_connection() -> None:
    async def use(proxy: FaultProxy, client: httpx.AsyncClient) -> tuple[int, dict[str, int]]:
        proxy.cutting = True
        lost = 0
        for _ in range(200):
            try:
                await client.post("/v1/x", json={})
            except httpx.TransportError:
                lost += 1
        return lost, dict(proxy.counts)

    lost, counts = through(0.2, use)
    assert 20 <= lost <= 60
    assert counts["cut before the answer"] + counts["cut within the answer"] == lost
    assert counts["cut before the answer"] > 5
    assert counts["cut within the answer"] > 5


def test_a_stall_holds_answers_until_it_is_over() -> None:
    async def use(proxy: FaultProxy, client: httpx.AsyncClient) -> bool:
        await proxy.set_mode("stall")
        asked = asyncio.ensure_future(client.post("/v1/x", json={}))
        done, _ = await asyncio.wait({asked}, timeout=0.3)
        await proxy.set_mode("plain")
        return not done and (await asked).status_code == 200 and proxy.counts["stalled"] == 1

    assert through(0.0, use)


def test_malformed_answers_take_turns() -> None:
    async def use(proxy: FaultProxy, client: httpx.AsyncClient) -> list[str]:
        await proxy.set_mode("malformed")
        for _ in SHAPES:
            await client.post("/v1/x", json={})
        return list(proxy.counts)

    assert through(0.0, use) == [f"malformed: {shape}" for shape in SHAPES]


def test_a_closed_port_refuses_and_opens_again() -> None:
    async def use(proxy: FaultProxy, client: httpx.AsyncClient) -> int:
        await client.post("/v1/x", json={})
        await proxy.set_mode("refuse")
        for _ in range(2):  # the connection that was kept, and a new one
            with pytest.raises(httpx.TransportError):
                await client.post("/v1/x", json={})
        await proxy.set_mode("plain")
        return (await client.post("/v1/x", json={})).status_code

    assert through(0.0, use) == 200


def test_a_server_that_is_gone_ends_the_connection() -> None:
    async def use(proxy: FaultProxy, client: httpx.AsyncClient) -> int:
        proxy._server = "http://127.0.0.1:1"
        with pytest.raises(httpx.TransportError):
            await client.post("/v1/x", json={})
        return proxy.counts["gone"]

    assert through(0.0, use) == 1


def test_shapes_spoil_what_they_say() -> None:
    answer = json.dumps({"choices": [{"index": 0, "logprobs": {"top_logprobs": [{"token_id:1": -0.5}]}}] * 2}).encode()
    bodies = {name: spoil(answer).partition(b"\r\n\r\n")[2] for name, spoil in SHAPES.items()}
    assert answer not in [bodies[name] for name in SHAPES]
    assert len(json.loads(bodies["one choice too few"])["choices"]) == 1
    assert b"NaN" in bodies["NaN"]
    assert b"1" + b"0" * 400 in bodies["a number too large"]
