"""A proxy between the gateway and its engine that cuts connections, stalls, refuses, and spoils answers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal

import httpx

from eval.soak.wire import MOST_BYTES, Received, cut, read_message, response

Mode = Literal["plain", "stall", "malformed", "refuse"]
"""What is wrong at present, besides the connections that are cut at any time."""

_TIMEOUT = 600.0  # seconds; the gateway gives up long before


class FaultProxy:
    """Passes requests on to a server, and spoils some.

    Args:
        url: The server's address, with its path: ``http://127.0.0.1:8000/v1``.
        seed: Decides which connections are cut.
        share: Of the requests, how many lose their connection.

    Attributes:
        port: Where it listens, on this machine.
        mode: What is wrong at present; set by `set_mode`.
        cutting: Whether connections are cut.
        counts: Requests by the fault that met them; ``passed`` for none, ``gone`` where there was no server.
    """

    def __init__(self, url: str, seed: int, share: float = 0.1) -> None:
        parts = httpx.URL(url)
        self.path = parts.path.rstrip("/")
        self._server = f"{parts.scheme}://{parts.netloc.decode()}"
        self._random = random.Random(seed)
        self._share = share
        self._shapes = itertools.cycle(SHAPES.items())
        self.port = 0
        self.mode: Mode = "plain"
        self.cutting = False
        self.counts: Counter[str] = Counter()
        self._flows = asyncio.Event()
        self._flows.set()
        self._listening: asyncio.Server | None = None
        self._open: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._http = httpx.AsyncClient(timeout=_TIMEOUT, limits=limits, trust_env=False)

    async def set_mode(self, mode: Mode) -> None:
        """Change what is wrong."""
        before, self.mode = self.mode, mode
        if mode == "stall":
            self._flows.clear()
        else:
            self._flows.set()
        if mode == "refuse":
            self._hang_up()
        elif before == "refuse" or self._listening is None:
            serve = asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=MOST_BYTES, backlog=512)
            self._listening = await serve
            self.port = self._listening.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """End all of it."""
        self._hang_up()
        self._flows.set()
        await self._http.aclose()
        await asyncio.gather(*(task for task in self._open.values() if task), return_exceptions=True)

    def _hang_up(self) -> None:
        """Stop listening, and cut all connections."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        for writer in tuple(self._open):
            cut(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[writer] = asyncio.current_task()
        try:
            while await self._exchange(await read_message(reader), writer):
                pass
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # the gateway hung up, or we did
        finally:
            del self._open[writer]
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _exchange(self, asked: Received, writer: asyncio.StreamWriter) -> bool:
        """Answer a request; False when the connection was cut."""
        chance = self._random.random() if self.cutting else 1.0
        if chance < self._share / 2:
            return self._cut("cut before the answer", writer)
        if not self._flows.is_set():
            self.counts["stalled"] += 1
        await self._flows.wait()
        try:
            got = await self._http.request(
                asked.first[0], self._server + asked.first[1], content=asked.body, headers=_passed_on(asked.headers)
            )
        except httpx.HTTPError:
            return self._cut("gone", writer)
        if not self._flows.is_set():  # it began meanwhile
            self.counts["stalled"] += 1
            await self._flows.wait()
        answer = response(got.status_code, got.content)
        if chance < self._share:
            writer.write(answer[: len(answer) - len(got.content) // 2 - 1])
            await writer.drain()
            return self._cut("cut within the answer", writer)
        if self.mode == "malformed" and got.is_success:
            name, spoil = next(self._shapes)
            self.counts[f"malformed: {name}"] += 1
            answer = spoil(got.content)
        else:
            self.counts["passed"] += 1
        writer.write(answer)
        await writer.drain()
        return True

    def _cut(self, why: str, writer: asyncio.StreamWriter) -> bool:
        self.counts[why] += 1
        cut(writer)
        return False


def _passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name in ("content-type", "accept", "authorization")}


def _changed(change: Callable[[Any], Any]) -> Callable[[bytes], bytes]:
    def spoil(body: bytes) -> bytes:
        with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
            body = json.dumps(change(json.loads(body))).encode()
        return response(200, body)

    return spoil


def _choices(change: Callable[[list[Any]], list[Any]]) -> Callable[[bytes], bytes]:
    return _changed(lambda answer: answer | {"choices": change(answer["choices"])})


def _numbers(found: Any, number: object) -> Any:
    """A JSON value with `number` in place of each fraction in it."""
    if isinstance(found, dict):
        return {name: _numbers(value, number) for name, value in found.items()}
    if isinstance(found, list):
        return [_numbers(value, number) for value in found]
    return number if isinstance(found, float) else found


SHAPES: Mapping[str, Callable[[bytes], bytes]] = {
    "no JSON": lambda _: response(200, b"<html>busy</html>"),
    "half a JSON": lambda body: response(200, body[: len(body) // 2]),
    "empty": lambda _: response(200, b""),
    "null": lambda _: response(200, b"null"),
    "a list": lambda body: response(200, b"[" + body + b"]"),
    "nested without end": lambda _: response(200, b"[" * 100_000),
    "no choices": _choices(lambda _: []),
    "one choice too few": _choices(lambda found: found[:-1]),
    "every choice twice": _choices(lambda found: found * 2),
    "choices of another type": _choices(lambda found: [None] * len(found)),
    "an index that is a list": _choices(lambda found: [one | {"index": []} for one in found]),
    "no scores": _choices(lambda found: [one | {"logprobs": None, "text": None, "message": None} for one in found]),
    "scores of another type": _choices(lambda found: [one | {"logprobs": {"top_logprobs": 1}} for one in found]),
    "tokens that are none": _choices(
        lambda found: [one | {"token_ids": [-1], "prompt_token_ids": [1 << 40]} for one in found]
    ),
    "NaN": _changed(lambda answer: _numbers(answer, float("nan"))),
    "infinite": _changed(lambda answer: _numbers(answer, float("inf"))),
    "a number too large": _changed(lambda answer: _numbers(answer, 10**400)),
    "status 500": lambda _: response(500, b'{"error": {"message": "the engine is dead"}}'),
    "status 503": lambda _: response(503, b"{}", Retry_After="1"),
    "status 400": lambda _: response(400, b'{"error": {"message": "no"}}'),
}
"""Ways to spoil the body of an answer, by name."""
