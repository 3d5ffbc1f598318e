from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'genrank[server]'")

from eval import serving
from eval.bench import described, main
from eval.peers import titles_only
from eval.serving import Burst, compared, measure_alone, post_all, rendered, summary
from genrank.errors import EngineError
from genrank.server.documents import read_documents
from genrank.types import Request
from tests.vllm_double import VLLMDouble, double


def test_a_summary_is_of_all_rounds() -> None:
    rounds = [Burst(2.0, [0.001 * i for i in range(1, 51)], 1), Burst(1.0, [0.001 * i for i in range(51, 101)], 4)]
    found = summary(rounds)
    assert (found["p50_ms"], found["p95_ms"], found["p99_ms"]) == (50.5, 95.05, 99.01)
    assert found["per_s"] == (50 / 2 + 50 / 1) / 2
    assert found["cached"] == 5 / 100


def test_what_is_added_is_taken_round_by_round() -> None:
    ours = [Burst(2.0, [0.010] * 4), Burst(4.0, [0.030] * 4), Burst(8.0, [0.050] * 4)]
    others = [Burst(1.0, [0.008] * 4), Burst(3.0, [0.025] * 4), Burst(2.0, [0.051] * 4)]
    found = compared(ours, others)
    assert found["added_p50_ms"] == found["added_p99_ms"] == [2.0, -1.0, 5.0]
    assert found["throughput"] == [0.5, 0.25, 0.75]


def test_no_query_is_asked_twice_and_all_are_of_one_length() -> None:
    requests = described(None, 2)
    bench = serving._Bench(requests, 2, 3, Path())
    asked: dict[str, list[Request]] = {"a": [], "b": []}

    def contender(name: str) -> serving.Contender:
        return lambda some: asked[name].extend(some) or Burst(1.0, [1.0] * len(some))  # type: ignore[func-returns-value]

    found = bench.in_turn({name: contender(name) for name in asked}, least=5)
    assert {name: [len(burst.latencies) for burst in bursts] for name, bursts in found.items()} == {
        "a": [5, 5],
        "b": [5, 5],
    }
    queries = [request.query.text for one in asked.values() for request in one]
    assert len(set(queries)) == len(queries) == 2 * 3 * 5
    assert {query.rsplit(" ", 1)[0] for query in queries} == {request.query.text for request in requests}
    assert len({len(query.rsplit(" ", 1)[1]) for query in queries}) == 1


def test_all_fields_of_the_listings_are_sent() -> None:
    (request,) = described(None, 1)
    path, body = serving.as_post(request)
    sent = json.loads(body)
    assert (path, sent["query"]) == ("/v2/rerank", request.query.text)
    assert read_documents(sent["documents"], field="documents", most_text=10**6).candidates == request.candidates


class Answering(ThreadingHTTPServer):
    """Answers posts with what a function makes of their bodies; counts how many are there at once."""

    def __init__(self, answer: Callable[[str, bytes], tuple[int, bytes]]) -> None:
        owner = self
        self.at_once = self.most_at_once = self.posts = 0
        self.lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with owner.lock:
                    owner.posts += 1
                    owner.at_once += 1
                    owner.most_at_once = max(owner.most_at_once, owner.at_once)
                status, found = answer(self.path, body)
                with owner.lock:
                    owner.at_once -= 1
                self.send_response(status)
                self.send_header("Content-Length", str(len(found)))
                self.end_headers()
                self.wfile.write(found)

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


Start = Callable[[Callable[[str, bytes], tuple[int, bytes]]], Answering]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Answering] = []

    def begin(answer: Callable[[str, bytes], tuple[int, bytes]]) -> Answering:
        started.append(server := Answering(answer))
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    yield begin
    for server in started:
        server.shutdown()
        server.server_close()


def test_clients_send_their_next_request_after_the_last_answer(start: Start) -> None:
    both = threading.Barrier(2, timeout=10)

    def answer(path: str, body: bytes) -> tuple[int, bytes]:
        both.wait()  # two clients are there at once, or none is answered
        return 200, b'{"cached":true}' if path == "/a" else b"{}"

    server = start(answer)
    burst = post_all(server.url, [[("/a", b"{}")], [("/b", b"{}")]] * 3, 2, b"")
    assert len(burst.latencies) == server.posts == 6
    assert server.most_at_once == 2
    assert burst.cached == 3
    assert 0 < min(burst.latencies) <= max(burst.latencies) <= burst.seconds


@pytest.mark.parametrize(
    ("answer", "words"),
    [((503, b"busy"), "503.*busy"), ((200, b'{"outcome":"fallback"}'), 'not hold "outcome":"model"')],
)
def test_an_answer_that_is_not_the_models_ends_the_run(start: Start, answer: tuple[int, bytes], words: str) -> None:
    server = start(lambda *_: answer)
    with pytest.raises(EngineError, match=words):
        post_all(server.url, [[("/rerank", b"{}")]], 1, b'"outcome":"model"')


@pytest.fixture
def vllm(start: Start, monkeypatch: pytest.MonkeyPatch) -> tuple[VLLMDouble, str]:
    """A stand-in for vLLM on a real port, whose tokenizer is the one here."""
    pytest.importorskip("httpx", reason="httpx is not installed: pip install 'genrank[remote]'")
    made = double({})
    lock = threading.Lock()

    def answer(path: str, body: bytes) -> tuple[int, bytes]:
        import asyncio

        import httpx

        method = "POST" if body else "GET"
        with lock:
            response = asyncio.run(made._serve(httpx.Request(method, f"http://x{path}", content=body)))
        return response.status_code, response.content

    monkeypatch.setattr("genrank.remote.vllm_server.resolve", lambda _: Path())
    monkeypatch.setattr("genrank.remote.vllm_server.load_tokenizer", lambda *_, **__: None)
    monkeypatch.setattr("genrank.remote.vllm_server.HubTokenizer", lambda _: made.oracle.tokenizer)
    return made, start(answer).url


def test_the_bare_endpoint_gets_the_prompts_that_the_reranker_sends(vllm: tuple[VLLMDouble, str]) -> None:
    made, url = vllm
    requests = list(map(titles_only, described(None, 2)))
    posts = rendered(url, "m", requests)
    made.bodies.clear()
    assert serving.rank_all(url, "m", requests, 1).latencies
    wanted = [body for body in made.bodies if isinstance(body["prompt"][0], list) and body.get("logprobs")]  # no probes
    found = [json.loads(body) for each in posts for path, body in each if path == "/v1/completions"]
    assert [len(each) for each in posts] == [2, 2], "20 prompts, of which 16 go at once"
    assert sorted(map(json.dumps, found)) == sorted(map(json.dumps, wanted))
    made.bodies.clear()
    post_all(url, posts, 2, b"")
    assert sorted(map(json.dumps, made.bodies)) == sorted(map(json.dumps, found))


def test_a_reranker_whose_engine_fails_ends_the_run(vllm: tuple[VLLMDouble, str]) -> None:
    made, url = vllm
    requests = list(map(titles_only, described(None, 1)))
    serving.rank_all(url, "m", requests, 1)
    made.ignored = frozenset({"logprob_token_ids"})
    with pytest.raises(EngineError, match="no log-probability"):
        serving.rank_all(url, "m", requests, 1)


def test_the_gateway_alone_is_measured_beside_the_floor(tmp_path: Path) -> None:
    requests = [dataclasses.replace(one, candidates=one.candidates[:3]) for one in described(None, 2)]
    found = measure_alone(serving._Bench(requests, 1, 4, tmp_path), None)
    assert list(found) == ["1 clients", "8 clients", "32 clients"]
    for entry in found.values():
        assert 0 < entry["floor"]["p50_ms"] < entry["new"]["p50_ms"]
        assert [entry[name]["cached"] for name in ("floor", "new", "cached")] == [0.0, 0.0, 1.0]
        assert entry["own"]["throughput"][0] < 1
        assert ("redis" in entry) == bool(shutil.which("redis-server"))
    assert (tmp_path / "instant.log").read_text(encoding="utf-8").count('"tier": "model"') == 2 + 2 * (4 + 8 + 32) * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rounds", "0"], "rounds: must be at least 1, got 0"),
        (["--queries", "-1"], "queries: must be at least 1, got -1"),
        (["--engine", "vllm"], "engine: must be an address such as http://127.0.0.1:8000/v1, got 'vllm'"),
    ],
)
def test_wrong_options_are_told(options: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "serving", *options]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
