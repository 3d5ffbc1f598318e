"""A real HTTP server on this machine that answers as a chat endpoint does, or misbehaves."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

# who asks this server needs the client
pytest.importorskip("httpx", reason="httpx is not installed: pip install 'genrank[remote]'")


@dataclass
class Answer:
    """One HTTP answer.

    Attributes:
        text: The model's text, or the list of its content's parts; if None, `body` is sent as it is.
        usage: Tokens read and written; None if the endpoint does not say.
        finish_reason: Why the model stopped; None if the endpoint does not say.
        message: Further fields of the message, such as ``reasoning_content``.
        status: HTTP status.
        headers: Further headers.
        body: What is sent if there is no text.
        delay: Seconds before the answer.
        drip: Seconds between one byte and the next.
    """

    text: str | list[Any] | None = None
    usage: tuple[int, int] | None = (1000, 100)
    finish_reason: str | None = "stop"
    message: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    delay: float = 0.0
    drip: float = 0.0


class ChatServer:
    """Serves while it is used as a context manager.

    Args:
        script: A function from a request's body to the answer; or the answers in turn, the last one repeated; or one
            answer.

    Attributes:
        bodies: Bodies of the requests so far.
        headers: Headers of the requests so far.
        most_at_once: The most requests that were in flight at once.
    """

    def __init__(self, script: Callable[[dict[str, Any]], Answer] | Sequence[Answer] | Answer) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._script = script
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                owner._serve(self)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128  # connections that may wait; with the default of 5, some of many at once are reset

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> ChatServer:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            self.bodies.append(body)
            self.headers.append(dict(handler.headers))
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            answer = self._answer(body, len(self.bodies) - 1)
        time.sleep(answer.delay)
        with self._lock:
            self._at_once -= 1  # before the client can know
        try:
            assert handler.path == "/v1/chat/completions"
            data = answer.body if answer.text is None else completion(answer)
            handler.send_response(answer.status)
            for name, value in ({"Content-Length": str(len(data))} | dict(answer.headers)).items():
                handler.send_header(name, value)
            handler.end_headers()
            for part in [data[i : i + 1] for i in range(len(data))] if answer.drip else [data]:
                time.sleep(answer.drip)
                handler.wfile.write(part)
        except OSError:
            pass  # the client gave up

    def _answer(self, body: dict[str, Any], number: int) -> Answer:
        if isinstance(self._script, Answer):
            return self._script
        if callable(self._script):
            return self._script(body)
        return self._script[min(number, len(self._script) - 1)]


def completion(answer: Answer) -> bytes:
    """The body of a chat completion."""
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": answer.text, **answer.message}}
    if answer.finish_reason is not None:
        choice["finish_reason"] = answer.finish_reason
    value: dict[str, Any] = {"choices": [choice]}
    if answer.usage:
        value["usage"] = {"prompt_tokens": answer.usage[0], "completion_tokens": answer.usage[1]}
    return json.dumps(value).encode()


def shown(body: Mapping[str, Any]) -> dict[str, str]:
    """The listings of a request by their letters."""
    return dict(re.findall(r"^\[(\w)\] (.*)$", body["messages"][1]["content"], re.MULTILINE))


def by_title(body: Mapping[str, Any]) -> Answer:
    """The listings in the order of their texts, as a model that does as it is told."""
    listings = shown(body)
    order = sorted(listings, key=lambda letter: listings[letter])
    return Answer(json.dumps({"ranking": order}))
