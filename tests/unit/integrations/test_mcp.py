"""The server, asked by the SDK's own client: in this process, and as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from genrank import EngineError, InputError, Reranker, __version__
from genrank.engines.base import Stop, TextRequest, TextResult, never
from genrank.testing import OracleEngine, ScriptedEngine
from genrank.types import Tokens

mcp: Any = pytest.importorskip("mcp", reason="mcp is not installed: pip install 'genrank[mcp]'")

from genrank.integrations.mcp import TOOL, Limits, create_server  # noqa: E402
from tests.chat_server import Answer, ChatServer, by_title  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
COAT = {"listing_id": "p1", "title": "Blue wool coat", "brand": "Acme", "price": 129.0, "currency": "EUR"}
DRESS = {"listing_id": "p2", "title": "Red cotton dress", "season": "summer"}
GRADES = {"p2": 3.0, "p1": 1.0}


def reranker(**options: Any) -> Reranker:
    return Reranker(engine=OracleEngine(GRADES), decoding="pointwise", **options)


def ask(
    arguments: Mapping[str, Any],
    ranker: Reranker | None = None,
    *,
    mode: str = "auto",
    tool: str = "rerank",
    **options: Any,
) -> Any:
    """The result of one call."""

    async def call() -> Any:
        async with mcp.Client(create_server(ranker or reranker(), **options), mode=mode) as client:
            return await client.call_tool(tool, dict(arguments))

    return asyncio.run(call())


def error(arguments: Mapping[str, Any], **options: Any) -> str:
    """The text of the error that answers a wrong call."""
    result = ask(arguments, **options)
    assert result.is_error
    assert result.structured_content is None
    (content,) = result.content
    text: str = content.text
    return text


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_call_is_answered_with_structured_content(mode: str) -> None:
    result = ask({"query": "red dress", "documents": [COAT, DRESS, "Straw hat"]}, mode=mode)
    assert not result.is_error
    answer = result.structured_content
    assert [(one["rank"], one["index"], one["id"]) for one in answer["items"]] == [
        (1, 1, "p2"),
        (2, 0, "p1"),
        (3, 2, "document-2"),
    ]
    scores = [one["score"] for one in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    assert answer["items"][0]["reason"] is None
    assert answer["provenance"]["outcome"] == "model"
    assert (answer["provenance"]["model"], answer["provenance"]["decoding"]) == ("oracle", "pointwise")
    assert json.loads(result.content[0].text) == answer  # for clients that read only text


def test_the_tool_and_its_answers_fit_their_schemas() -> None:
    jsonschema = pytest.importorskip("jsonschema")

    async def tools() -> Any:
        async with mcp.Client(create_server(reranker())) as client:
            assert (client.server_info.name, client.server_info.version) == ("genrank", __version__)
            return await client.list_tools()

    (tool,) = asyncio.run(tools()).tools
    assert (tool.name, tool.annotations.read_only_hint) == ("rerank", True)
    assert set(tool.input_schema["properties"]) == {"query", "documents", "history", "top_n", "reasons"}
    assert tool.input_schema["required"] == ["query", "documents"]
    purchase = {"event": "purchase", "time": "2026-05-01T10:00:00Z", "listing": {"listing_id": "h", "title": "Hat"}}
    call = {"query": "dress", "documents": [COAT, "Hat"], "history": [purchase], "top_n": 1, "reasons": 1}
    jsonschema.validate(call, tool.input_schema)
    jsonschema.validate(ask(call).structured_content, tool.output_schema)


class Writing(OracleEngine):
    """Writes the same reason for everything."""

    def write(self, requests: Sequence[TextRequest], *, stop: Stop = never) -> list[TextResult | None]:
        return [TextResult("A red dress for summer.", Tokens()) for _ in requests]


def test_reasons_come_with_their_evidence() -> None:
    ranker = Reranker(engine=Writing(GRADES), decoding="pointwise")
    answer = ask({"query": "red dress summer", "documents": [COAT, DRESS], "reasons": 1}, ranker).structured_content
    first, second = answer["items"]
    assert (first["id"], first["reason"]) == ("p2", "A red dress for summer.")
    assert {"title", "attributes.season"} <= set(first["evidence"])
    assert (second["reason"], second["evidence"]) == (None, [])


def test_the_history_reaches_the_prompt() -> None:
    engine = OracleEngine(GRADES)
    purchase = {"event": "purchase", "listing": {"listing_id": "h", "title": "Straw hat"}}
    ask({"query": "dress", "documents": [DRESS], "history": [purchase]}, Reranker(engine=engine, decoding="pointwise"))
    assert "Straw hat" in engine.tokenizer.decode(engine.requests[0].ids)


def test_nothing_is_lost() -> None:
    documents = ["Hat", "Hat", " ", DRESS, DRESS, {"title": ""}, {"text": "Scarf", "price": "cheap", "rating": 11}]
    items = ask({"query": "dress", "documents": documents}).structured_content["items"]
    assert sorted(one["index"] for one in items) == list(range(7))
    assert [one["rank"] for one in items] == list(range(1, 8))
    assert len({one["id"] for one in items}) == 7
    assert items[0]["index"] == 3
    assert [(one["index"], one["score"]) for one in items[-2:]] == [(2, 0.0), (5, 0.0)]


def test_top_n_cuts_the_answer() -> None:
    documents = [COAT, DRESS, " "]
    assert [
        one["id"] for one in ask({"query": "dress", "documents": documents, "top_n": 1}).structured_content["items"]
    ] == ["p2"]
    assert len(ask({"query": "dress", "documents": documents, "top_n": 9}).structured_content["items"]) == 3


def test_null_is_as_if_left_out() -> None:
    call = {"query": "dress", "documents": [DRESS], "history": None, "top_n": None, "reasons": None}
    assert len(ask(call).structured_content["items"]) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"query": None}, "query: Field required; give it a value"),
        ({"query": " "}, "query: must hold a visible character, got ' '"),
        ({"query": 7}, "query: Input should be a valid string, got 7; write it as text, in quotes"),
        ({"documents": []}, "documents: must hold at least one document; send those to rank"),
        ({"documents": "Hat"}, "documents: Input should be a valid list, got 'Hat'; write it as a list"),
        ({"documents": ["Hat", 7]}, "documents[1]: must be a text or an object, got 7; quote it"),
        ({"documents": [" ", {}]}, "documents: holds no visible text; send documents with a text or a title"),
        ({"top_n": "3"}, "top_n: Input should be a valid integer, got '3'; write it as a whole number"),
        ({"top_n": 0}, "top_n: Input should be greater than or equal to 1, got 0; raise it, or leave it out"),
        ({"top_k": 3}, "top_k: Extra inputs are not permitted, got 3; leave it out"),
        ({"history": [{"event": "buy", "listing": COAT}]}, "history[0].event: Input should be 'view', 'click'"),
        ({"history": [{"event": "view"}]}, "history[0].listing: this field is required; give it a value"),
    ],
)
def test_a_wrong_call_is_told_the_field_the_value_and_the_fix(change: dict[str, Any], said: str) -> None:
    assert error({"query": "dress", "documents": ["Hat"], **change}).startswith(said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"query": "x" * 21}, "query: at most 20 characters, got 21; send less"),
        ({"documents": ["a"] * 4}, "documents: at most 3 documents, got 4; send less"),
        ({"documents": ["a", "x" * 21]}, "documents[1]: at most 20 characters, got 21; send less"),
        ({"documents": [{"title": "x" * 21}]}, "documents[0]: at most 20 characters, got 34; send less"),
        ({"documents": ["x" * 16] * 2}, "documents: at most 30 characters, got 32; send less"),
        ({"history": [{}] * 2}, "history: at most 1 interactions, got 2; send less"),
        ({"reasons": 3}, "reasons: at most 2 reasons, got 3; send less"),
    ],
)
def test_calls_are_limited(change: dict[str, Any], said: str) -> None:
    limits = Limits(documents=3, text=20, total=30, history=1, reasons=2)
    assert error({"query": "dress", "documents": ["Hat"], **change}, limits=limits) == said


def test_another_tool_is_an_error() -> None:
    assert error({}, tool="delete") == "there is no tool 'delete'; call rerank"


def test_what_fits_no_prompt_is_an_error_of_the_documents() -> None:
    small = Reranker(engine=OracleEngine({}), decoding="inline", max_prompt_tokens=40)
    assert error({"query": "dress", "documents": [f"Hat {i}" for i in range(20)]}, ranker=small).startswith(
        "documents: too many or too long for one prompt"
    )


def test_a_model_that_fails_is_in_the_provenance() -> None:
    ranker = Reranker(engine=ScriptedEngine(lambda _: EngineError("out of memory")), decoding="pointwise")
    answer = ask({"query": "dress", "documents": [COAT, DRESS]}, ranker).structured_content
    assert [one["id"] for one in answer["items"]] == ["p1", "p2"]
    made = answer["provenance"]
    assert (made["outcome"], made["cause"], made["stand_in"]) == ("fallback", "engine-error", "first-stage")
    assert "out of memory" in made["why"]


def test_a_closed_reranker_is_an_error() -> None:
    ranker = reranker()
    ranker.close()
    assert "closed" in error({"query": "dress", "documents": ["Hat"]}, ranker=ranker)


def test_a_wrong_deadline_is_refused_at_once() -> None:
    with pytest.raises(InputError, match="deadline"):
        create_server(reranker(), deadline=-1)


def answers(body: dict[str, Any]) -> Answer:
    """A chat server's answer to a prompt, or to the questions by which genrank finds out what it can do."""
    return by_title(body) if len(body["messages"]) > 1 else Answer("Hello.")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def over_stdio(command: list[str], work: Callable[[Any], Coroutine[Any, Any, Any]], log: Path) -> Any:
    """What `work` makes of a client of a server in a process of its own."""

    async def call() -> Any:
        program = mcp.StdioServerParameters(command=sys.executable, args=command, env=environment(), cwd=ROOT)
        with log.open("w") as errors:
            async with mcp.Client(mcp.stdio_client(program, errlog=errors)) as client:
                return await work(client)

    return asyncio.run(call())


def test_the_command_serves_over_standard_input_and_output(tmp_path: Path) -> None:
    async def work(client: Any) -> Any:
        names = [tool.name for tool in (await client.list_tools()).tools]
        return names, await client.call_tool("rerank", {"query": "hat", "documents": ["c hat", "a hat", "b hat"]})

    with ChatServer(answers) as server:
        command = ["-m", "genrank", "mcp", "--engine", server.url, "--model", "m", "--decoding", "listwise"]
        names, result = over_stdio(command, work, tmp_path / "log")
    assert names == ["rerank"]
    assert [one["index"] for one in result.structured_content["items"]] == [1, 2, 0]
    assert result.structured_content["provenance"]["outcome"] == "model"
    assert "genrank mcp: ready" in (tmp_path / "log").read_text()


NOISY = """
import os, subprocess
from genrank import Reranker
from genrank.integrations.mcp import create_server, protocol_stream, serve_stdio
from genrank.testing import OracleEngine

def noise(what):
    print("printed", what, flush=True)
    os.write(1, f"written {what}\\n".encode())
    subprocess.run(["echo", f"started {what}"], check=True)

class Noisy(OracleEngine):
    def __init__(self, grades):
        super().__init__(grades)
        noise("while loading")

    def score(self, requests, *, stop):
        noise("while ranking")
        return super().score(requests, stop=stop)

with protocol_stream() as stdout:
    serve_stdio(create_server(Reranker(engine=Noisy({"document-1": 2}), decoding="pointwise")), stdout)
print("after all")
"""


def test_standard_output_carries_nothing_but_the_protocol() -> None:
    version = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    call = {"name": "rerank", "arguments": {"query": "红色 连衣裙", "documents": ["帽子", "Hat"]}}
    lines = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": version},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call},
    ]
    with subprocess.Popen(
        [sys.executable, "-c", NOISY],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("".join(json.dumps(line) + "\n" for line in lines))
        process.stdin.flush()
        answers = [json.loads(process.stdout.readline()) for _ in range(2)]
        rest, said = process.communicate()  # the end of the input ends the server
    assert [one["id"] for one in answers] == [1, 2]
    assert answers[1]["result"]["structuredContent"]["items"][0]["id"] == "document-1"
    assert (process.returncode, rest) == (0, "after all\n")
    for how in ("printed", "written", "started"):
        assert f"{how} while loading" in said
        assert f"{how} while ranking" in said


def test_the_command_serves_over_http(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    async def call() -> Any:
        async with mcp.Client(f"http://127.0.0.1:{port}/mcp") as client:
            return await client.call_tool("rerank", {"query": "hat", "documents": ["c hat", "a hat"]})

    with ChatServer(answers) as server, (tmp_path / "log").open("w") as log:
        command = ["-m", "genrank", "mcp", "--http", str(port), "--engine", server.url, "--decoding", "listwise"]
        process = subprocess.Popen([sys.executable, *command, "--model", "m"], env=environment(), cwd=ROOT, stderr=log)
        try:
            ends = time.monotonic() + 60
            while "Uvicorn running" not in (tmp_path / "log").read_text():
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < ends
                time.sleep(0.1)
            result = asyncio.run(call())
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    assert [one["index"] for one in result.structured_content["items"]] == [1, 0]


def test_the_tool_is_described_briefly() -> None:
    """An agent's model reads it before every answer."""
    assert len(json.dumps(TOOL.model_dump(mode="json")["input_schema"])) < 2500
