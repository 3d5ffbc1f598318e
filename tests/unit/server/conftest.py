"""The gateway over engine doubles."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
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

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__(GRADES)
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
