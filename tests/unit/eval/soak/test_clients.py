"""The clients against a gateway that does as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from eval.soak.clients import Clients, Requests, Tally
from eval.soak.wire import MOST_BYTES, Received, cut, read_message, response
from genrank.data.dataset import sample_shop

DEADLINE = 0.5


def good(asked: Received, **details: Any) -> bytes:
    body = json.loads(asked.body)
    wanted = body.get("top_n") or len(body["documents"])
    results = [{"index": index, "relevance_score": 0.5} for index in range(wanted)]
    answer = {"results": results, "genrank": {"tier": "model", "cause": "", "cached": False} | details}
    return response(200, json.dumps(answer).encode())


def without_the_last(asked: Received) -> bytes:
    _, _, body = good(asked).partition(b"\r\n\r\n")
    answer = json.loads(body)
    return response(200, json.dumps(answer | {"results": answer["results"][:-1]}).encode())


def against(
    answer: Callable[[Received], bytes | None],
    use: Callable[[Clients], Any],
    delay: float = 0.0,
    patience: float = 30.0,
) -> tuple[Tally, Clients]:
    """What clients see of a gateway; an answer of None cuts the connection."""

    serving = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        with contextlib.suppress(OSError, EOFError):
            while await exchange(reader, writer):
                pass
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        try:
            asked = await asyncio.wait_for(read_message(reader), patience)
        except TimeoutError:
            writer.write(response(408, b"{}"))
            return False
        await asyncio.sleep(delay)
        data = answer(asked)
        if data is None:
            cut(writer)
            return False
        writer.write(data)
        await writer.drain()
        return data[-1:] == b"}" and asked.headers.get("connection") != "close"

    async def body() -> tuple[Tally, Clients]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=MOST_BYTES)
        tally = Tally()
        clients = Clients(server.sockets[0].getsockname()[1], Requests(sample_shop(), 0), DEADLINE, tally, 0)
        await use(clients)
        server.close()
        await asyncio.gather(*(task for task in serving if task is not None))
        return tally, clients

    return asyncio.run(body())


async def for_a_while(clients: Clients) -> None:
    clients.start(2, 2, 2)
    await asyncio.sleep(1.5)
    await clients.stop()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine makes no slow client slower than meant."""
    monkeypatch.setattr("eval.soak.clients._TOO_SLOW", 100.0)
    monkeypatch.setattr("eval.soak.clients._PATIENCE", 100.0)


@pytest.mark.usefixtures("patient")
def test_a_gateway_that_keeps_its_promises_breaks_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.soak.answers.LATE", 100.0)
    tally, clients = against(good, for_a_while, patience=2.0)
    assert tally.broken == {}, tally.examples
    assert {kind for kind, count in tally.clients.items() if count} == {"steady", "slow", "stuck", "vanishing"}
    assert set(tally.outcomes) == {"model", "status 408"}
    assert clients.model_answered > 0


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("answer", "promise"),
    [
        (without_the_last, "every candidate"),
        (lambda asked: response(500, b"{}"), "status"),
        (lambda asked: response(429, b"{}"), "Retry-After"),
        (lambda asked: None, "answered"),
        (lambda asked: good(asked)[:-5], "answered"),
    ],
    ids=["lost", "500", "429", "cut", "half"],
)
def test_every_kind_of_client_notices(
    answer: Callable[[Received], bytes | None], promise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.soak.answers.LATE", 100.0)

    async def use(clients: Clients) -> None:
        await asyncio.gather(clients.crowd(3), clients._slow())

    tally, clients = against(answer, use)
    assert dict(tally.broken) == {promise: 4}, tally.examples
    assert len(tally.examples[promise]) == 4
    assert not clients.model_answered or promise == "every candidate"


def test_a_client_that_a_busy_machine_slows_down_judges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.soak.clients._TOO_SLOW", 0.0)
    tally, _ = against(without_the_last, lambda clients: clients._slow())
    assert (dict(tally.clients), tally.broken) == ({"slower than meant": 1}, {})


def test_late_answers_are_noticed() -> None:
    tally, _ = against(good, lambda clients: clients.crowd(2), delay=1.2 * DEADLINE)
    assert dict(tally.broken) == {"in time": 2}


@pytest.mark.parametrize("details", [{"cached": True}, {"tier": "fallback"}])
def test_an_answer_that_was_kept_or_not_the_models_is_no_sign_of_the_model(details: dict[str, Any]) -> None:
    _, clients = against(lambda asked: good(asked, **details), lambda clients: clients.crowd(3))
    assert clients.model_answered == 0


def test_requests_are_the_same_for_a_seed_and_hold_what_is_said() -> None:
    first, second = (Requests(sample_shop(), 3) for _ in range(2))
    drawn = [first.draw() for _ in range(200)]
    assert drawn == [second.draw() for _ in range(200)]
    for asked, body in drawn:
        assert (asked.documents, asked.wanted) == (len(body["documents"]), body.get("top_n"))
    bodies = [json.dumps(body) for _, body in drawn]
    assert 5 < len(bodies) - len(set(bodies)) < 60, "some come again"
    assert any("reasons" in body for _, body in drawn)
    assert any(body.get("history") for _, body in drawn)
    few = Requests(sample_shop(), 3, most=3)
    assert {few.draw(most)[0].documents for most in (None, 8) for _ in range(50)} == {2, 3}


def test_a_client_that_pauses_asks_seldom_and_leaves_at_once() -> None:
    async def use(clients: Clients) -> None:
        clients._pause = 1000.0
        clients.start(2, 0, 0)
        await asyncio.sleep(0.5)
        await clients.stop()

    tally, _ = against(good, use)
    assert tally.clients["steady"] == 2
