"""The gateway over engine doubles."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from genrank.engines.base import ScoreRequest, ScoreResult, Stop, never
from genrank.errors import EngineError
from genrank.reranker import Reranker
from genrank.testing import OracleEngine

collect_ignore_glob = [] if find_spec("fastapi") and find_spec("limits") else ["test_*.py"]

GRADES = {f"document-{i}": float(i) for i in range(20)} | {"p1": 1.0, "p2": 3.0}
"""Later documents fit better."""


class SlowEngine(OracleEngine):
    """Knows the grades, takes its time, and remembers what was asked of it.

    Attributes:
        seconds: What a call takes, unless it is stopped before.
        failing: Whether every call fails.
        sizes: Prompts in each call so far.
        started: Set when a call begins.
        stopped: Set when a call was stopped.
    """

    def __init__(self, seconds: float = 0.0, grades: Mapping[str, float] = GRADES) -> None:
        super().__init__(grades)
        self.seconds = seconds
        self.failing = False
        self.sizes: list[int] = []
        self.started = threading.Event()
        self.stopped = threading.Event()

    def score(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
        self.sizes.append(len(requests))
        self.started.set()
        ends = time.monotonic() + self.seconds
        while time.monotonic() < ends:
            if stop():
                self.stopped.set()
                return [None] * len(requests)
            time.sleep(0.005)
        if self.failing:
            raise EngineError("/secret/path is gone")
        return super().score(requests, stop=stop)


@pytest.fixture
def engine() -> SlowEngine:
    return SlowEngine()


Serve = Callable[..., Any]


@pytest.fixture
def serve(engine: SlowEngine) -> Iterator[Serve]:
    """Starts an app on `engine`; takes sections of the configuration, ``keys`` and ``reranker`` (its options)."""
    from starlette.testclient import TestClient

    from genrank.server.app import create_app
    from genrank.server.config import Config
    from genrank.server.gateway import Gateway

    with contextlib.ExitStack() as stack:

        def start(keys: Sequence[str] = (), reranker: dict[str, Any] | None = None, **sections: Any) -> TestClient:
            options: dict[str, Any] = {"engine": engine, "decoding": "pointwise"} | (reranker or {})
            ranker = Reranker(**options)
            config = Config.model_validate(sections)
            return stack.enter_context(TestClient(create_app(Gateway(ranker, config), keys)))

        yield start


@pytest.fixture
def listening(engine: SlowEngine) -> Iterator[Serve]:
    """Like `serve`, with a real server in a thread; gives its address."""
    import asyncio

    from genrank.server.config import Config
    from genrank.server.run import make_server

    with contextlib.ExitStack() as stack:

        def start(keys: Sequence[str] = (), **sections: Any) -> str:
            sections["server"] = {"port": 0} | sections.get("server", {})
            ranker = Reranker(engine=engine, decoding="pointwise")
            server = make_server(ranker, Config.model_validate(sections), keys)
            thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
            thread.start()
            stack.callback(thread.join, 20)
            stack.callback(lambda: setattr(server, "should_exit", True))
            while not server.started:
                time.sleep(0.005)
            port = server.servers[0].sockets[0].getsockname()[1]
            return f"http://127.0.0.1:{port}"

        yield start


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An index of the sample shop."""
    pytest.importorskip("symspellpy")
    pytest.importorskip("duckdb")
    from genrank.data.dataset import sample_shop
    from genrank.search.index import Index

    path = tmp_path_factory.mktemp("shop") / "index"
    with Index.create(path) as index:
        index.add(sample_shop().listings.values())
    return str(path)


@pytest.fixture
def section(folder: str, tmp_path: Path) -> dict[str, Any]:
    """A section of the configuration that searches and keeps everything."""
    return {
        "index": folder,
        "shoppers": str(tmp_path / "shoppers"),
        "log": str(tmp_path / "log"),
        "candidates": 12,
    }


Shop = tuple[Any, dict[str, Any]]


@pytest.fixture
def shop(serve: Serve, section: dict[str, Any]) -> Shop:
    """A client, and the answer to a first search."""
    client = serve(search=section)
    return client, client.post("/v1/search", json={"query": "linen dress", "user_id": "u1", "top_k": 3}).json()


def event(answer: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A click on the second listing that a search showed."""
    shown = answer["items"][1]["listing_id"]
    return {"request_id": answer["request_id"], "listing_id": shown, "event": "click", **fields}


def hang_up(app: Any, engine: SlowEngine, path: str, fields: Mapping[str, Any]) -> tuple[float, list[dict[str, Any]]]:
    """A client that asks and goes as soon as the engine has started.

    Returns:
        The seconds that the app took, and the messages that it sent.
    """
    body = json.dumps(fields).encode()
    sent: list[dict[str, Any]] = []

    async def run() -> float:
        incoming = iter([{"type": "http.request", "body": body}])

        async def receive() -> Any:
            for message in incoming:
                return message
            await asyncio.to_thread(engine.started.wait, 2)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
                 "headers": [], "http_version": "1.1", "scheme": "http", "server": ("test", 80)}  # fmt: skip
        async with app.router.lifespan_context(app):
            started = time.monotonic()
            await app(scope, receive, send)
            return time.monotonic() - started

    return asyncio.run(run()), sent
