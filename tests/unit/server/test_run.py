"""A real server on a real port."""

from __future__ import annotations

import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from genrank.cascade import Cascade
from genrank.engines.base import Engine
from genrank.errors import InputError
from genrank.pictures import Pictures
from genrank.reranker import Reranker
from genrank.server.config import ModelConfig
from genrank.server.run import load_ranker
from genrank.testing import OracleEngine
from genrank.types import Candidate, Listing, Query, Request
from tests.unit.server.conftest import Serve, SlowEngine

httpx = pytest.importorskip("httpx")

ROOT = Path(__file__).resolve().parents[3]
REQUEST = Request(Query("dress"), (Candidate(Listing("a", "A")),))


def ask(base: str, query: str = "dress") -> Any:
    return httpx.post(f"{base}/v2/rerank", json={"query": query, "documents": ["A", "B"]}, timeout=10)


def test_clients_at_the_same_time_share_batches(listening: Serve, engine: SlowEngine) -> None:
    base = listening(batching={"wait": 0.02})
    engine.seconds = 0.05
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda i: ask(base, f"dress {i}"), range(16)))
    assert [answer.json()["results"][0]["index"] for answer in answers] == [1] * 16
    assert sum(engine.sizes) == 32
    assert len(engine.sizes) < 8


def test_a_connection_that_closes_stops_the_work(listening: Serve, engine: SlowEngine) -> None:
    engine.seconds = 10.0
    port = int(listening().rsplit(":", 1)[1])
    body = json.dumps({"query": "dress", "documents": ["A"]}).encode()
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        assert engine.started.wait(5)
    assert engine.stopped.wait(5)


def test_a_client_that_goes_in_the_middle_of_its_body_is_no_error(
    listening: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "genrank.server")
    port = int(listening().rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        time.sleep(0.1)

    def ours() -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.name == "genrank.server"]

    ends = time.monotonic() + 5
    while not ours() and time.monotonic() < ends:
        time.sleep(0.01)
    (record,) = ours()
    fields: dict[str, object] = vars(record)["genrank_fields"]
    assert (record.levelname, fields["status"]) == ("INFO", 499)


def test_the_deadline_counts_from_the_first_byte(listening: Serve, engine: SlowEngine) -> None:
    engine.seconds = 5.0
    port = int(listening(server={"deadline": 0.6}).rsplit(":", 1)[1])
    body = json.dumps({"query": "dress", "documents": ["A"]}).encode()
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        started = time.monotonic()
        client.sendall(b"POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body[:5]))
        time.sleep(0.4)
        client.sendall(body[5:])
        answer = b""
        while b'"cause":"deadline"' not in answer:
            part = client.recv(10_000)
            assert part, answer
            answer += part
        assert time.monotonic() - started < 0.7


def test_a_body_that_never_ends_is_given_up(listening: Serve) -> None:
    port = int(listening(server={"deadline": 0.3}).rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(b"POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert client.recv(1000).startswith(b"HTTP/1.1 408")


@pytest.fixture
def doubles(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    calls: list[tuple[object, ...]] = []

    def load(engine: Any, model: str, adapter: str | None, dtype: str, *_: bool) -> Engine:
        if not isinstance(engine, str):
            shared: Engine = engine
            return shared
        calls.append((engine, model, adapter, dtype))
        return OracleEngine({})

    monkeypatch.setattr("genrank.reranker._load_engine", load)
    return calls


def test_the_configuration_describes_the_reranker(doubles: list[tuple[object, ...]]) -> None:
    config = ModelConfig(model="m", engine="vllm", dtype="float16", decoding="inline", window=5, name="shop", blend=0.5)
    ranker = load_ranker(config)
    assert isinstance(ranker, Reranker)
    assert doubles == [("vllm", "m", None, "float16")]
    assert (ranker.decoding, ranker.window) == ("inline", 5)


def test_pictures_are_for_models_that_see_them(doubles: list[tuple[object, ...]]) -> None:
    pytest.importorskip("PIL")
    load_ranker(ModelConfig(model="m"), Pictures()).close()
    with pytest.raises(InputError, match="the engine oracle shows none"):
        load_ranker(ModelConfig(model="m", decoding="pointwise"), Pictures(data_urls=True))


def test_a_second_stage_shares_the_engine(doubles: list[tuple[object, ...]]) -> None:
    cascade = load_ranker(ModelConfig(model="m", decoding="pointwise", then="inline", then_top=4, then_scores="add"))
    assert isinstance(cascade, Cascade)
    assert cascade.second.engine is cascade.first.engine
    assert (cascade.top, cascade.scores, len(doubles)) == (4, "add", 1)


PROGRAM = """
import time
from genrank.reranker import Reranker
from genrank.server.config import Config
from genrank.server.run import serve
from genrank.testing import OracleEngine

class Slow(OracleEngine):
    def score(self, requests, *, stop):
        time.sleep(0.5)
        return super().score(requests, stop=stop)

serve(Reranker(engine=Slow({}), decoding="pointwise"), Config.model_validate({"server": {"port": 0}}), ["key-of-shop"])
print("closed")
"""


def test_a_signal_lets_running_requests_finish() -> None:
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines: list[str] = []
        while "running on" not in "".join(lines):
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        port = json.loads(lines[-1])["event"].split(" (")[0].rsplit(":", 1)[1]
        answers: list[Any] = []
        asking = threading.Thread(
            target=lambda: answers.append(
                httpx.post(
                    f"http://127.0.0.1:{port}/rerank",
                    json={"query": "secret words", "documents": ["A"]},
                    headers={"Authorization": "Bearer key-of-shop"},
                )
            )
        )
        asking.start()
        time.sleep(0.25)
        process.send_signal(signal.SIGTERM)
        asking.join(10)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "closed\n"), err
    assert answers[0].status_code == 200
    log = [json.loads(line) for line in [*lines, *err.splitlines()] if line]
    assert [line["status"] for line in log if line.get("event") == "request"] == [200]
    assert "secret" not in err
    assert "key-of-shop" not in err


def test_the_fallback_is_loaded_first(doubles: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numpy")
    from genrank.rankers import gbdt

    def load(folder: str) -> Any:
        assert not doubles, "before the model, whose loading takes longer"
        return lambda requests: [[float(len(folder))] for _ in requests]

    monkeypatch.setattr(gbdt, "load_fallback", load)
    ranker = load_ranker(ModelConfig(model="m", fallback="runs/shop", then="inline", decoding="pointwise"))
    assert isinstance(ranker, Cascade)
    assert ranker.first.fallback
    assert ranker.first.fallback([REQUEST]) == [[9.0]]
    assert len(doubles) == 1
