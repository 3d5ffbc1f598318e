"""What the gateway costs: beside the engine's endpoint, by itself, with many clients at once, and from its cache.

The part ``serving`` of `eval.bench`. Every server is a process of its own, and so are the clients, which take turns
round by round (A B C A B C); differences and ratios are taken round by round. A client sends its next request when it
has the answer to the last one. The clients do nothing but send bytes and read answers; ``floor`` is what they take
themselves. Except for what the cache answers, no query is asked twice.

What a gateway adds to an engine's endpoint depends on what one would do without it, so `measure_endpoint` has three
contenders:

- ``endpoint``: the prompts, rendered before the clock starts, go to the engine's endpoint, and nothing is made of the
  answers. All of genrank comes on top of that, above all the reading and rendering of the listings.
- ``reranker``: ``Reranker(engine="http://...")`` in the process of the clients, as in a shop without a gateway. The
  difference is what the gateway itself adds: HTTP, checks, queue, cache, log.
- ``gateway``: ``genrank serve --engine http://...``.

A few clients keep a small engine busy all the time. Then most of a request's time is waiting for the engine, and the
gateway's work is done meanwhile: the ratio of throughputs says what it costs, and the added milliseconds say less.
`measure_alone` shows the gateway's own milliseconds, with an engine that answers at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import itertools
import json
import multiprocessing
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.peers import flat_scores, pairwise, vllm_settings
from eval.server import Server
from eval.soak.wire import free_port
from genrank import Request, Reranker
from genrank.engines.base import ScoreRequest, ScoreResult, Stop, never
from genrank.engines.tokenizer import HubTokenizer, Tokenizer, load_tokenizer
from genrank.errors import EngineError, InputError
from genrank.experiment.program import say
from genrank.experiment.record import circumstances
from genrank.models.store import resolve
from genrank.remote.http import API_KEY
from genrank.testing import ScriptedEngine

PARTS = ("alone", "batching", "endpoint")
CLIENTS = (1, 8, 32)
"""Clients at once, with the gateway alone."""

_AT_ONCE = 8  # clients of the engine's endpoint
_MANY = 32  # clients whose requests are batched
_HOST = "127.0.0.1"
_START = 900  # seconds; vLLM compiles
_DEADLINE = 600  # seconds for one request; the default would cut off what is to be measured
_BY_THE_MODEL, _CACHED = b'"outcome":"model"', b'"cached":true'

Post = tuple[str, bytes]
"""A path and a body."""


@dataclass(frozen=True, slots=True)
class Burst:
    """What some clients measured.

    Attributes:
        seconds: From the first request to the last answer.
        latencies: ``[requests]`` seconds.
        cached: Answers from the gateway's cache.
    """

    seconds: float
    latencies: Sequence[float]
    cached: int = 0

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.latencies) / self.seconds

    def ms(self, percent: float) -> float:
        """A percentile of the latencies, in milliseconds."""
        return float(np.percentile(self.latencies, percent)) * 1e3


Contender = Callable[[Sequence[Request]], Burst]


def measure_serving(
    model: str,
    requests: Sequence[Request],
    *,
    rounds: int,
    queries: int,
    parts: Sequence[str] | None = None,
    engine: str | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure the gateway.

    Args:
        model: Known name, local folder or hub name; served in ``batching`` and, unless `engine` is given, by vLLM. The
            gateway alone takes its tokenizer.
        requests: The listings that are ranked, again and again, for new queries.
        rounds: Rounds of each contender, after one that only warms up.
        queries: Requests in a round.
        parts: Some of `PARTS`; None for all.
        engine: Address of vLLM's server for ``endpoint``; None starts one with ``genrank vllm``.
        out: Folder for the servers' logs; None drops them.

    Returns:
        By part, what `measure_alone`, `measure_batching` and `measure_endpoint` find; and what was run where.

    Raises:
        InputError: When a number or the address is wrong.
        EngineError: When a server does not start, or a request is not answered by the model.
    """
    for field, number in (("rounds", rounds), ("queries", queries)):
        if number < 1:
            raise InputError(f"must be at least 1, got {number}", field=field)
    if engine is not None and not engine.startswith("http://"):
        raise InputError(f"must be an address such as http://{_HOST}:8000/v1, got {engine!r}", field="engine")
    result: dict[str, Any] = {"model": model, "candidates": len(requests[0].candidates), "queries": queries}
    with contextlib.ExitStack() as stack:
        logs = out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        logs.mkdir(parents=True, exist_ok=True)
        bench = _Bench(requests, rounds, queries, logs)
        measures: Mapping[str, Callable[[], dict[str, Any]]] = {
            "alone": lambda: measure_alone(bench, model),
            "batching": lambda: measure_batching(bench, model),
            "endpoint": lambda: measure_endpoint(bench, model, engine),
        }
        for part in PARTS if parts is None else parts:
            say(f"serving: {part}")
            result[part] = measures[part]()
    return result | {"rounds": rounds, **circumstances()}


class _Bench:
    """Lets contenders take turns."""

    def __init__(self, requests: Sequence[Request], rounds: int, queries: int, logs: Path) -> None:
        self.requests = requests
        self.logs = logs
        self._rounds = rounds
        self._queries = queries
        self._numbers = itertools.count(10_000)  # of the same length, so that all prompts are

    def fresh(self, count: int) -> list[Request]:
        """Requests whose queries were not asked before."""
        return [
            dataclasses.replace(one, query=dataclasses.replace(one.query, text=f"{one.query.text} {number}"))
            for one, number in zip(itertools.cycle(self.requests), itertools.islice(self._numbers, count), strict=False)
        ]

    def in_turn(self, contenders: Mapping[str, Contender], least: int = 1) -> dict[str, list[Burst]]:
        """``[rounds]`` of each contender, of at least so many requests; the first round warms up and is not kept."""
        found: dict[str, list[Burst]] = {name: [] for name in contenders}
        for round_ in range(self._rounds + 1):
            for name, contender in contenders.items():
                burst = contender(self.fresh(max(self._queries, least, len(self.requests))))
                if round_:
                    found[name].append(burst)
            say(f"round {round_} of {self._rounds}")
        return found


def summary(bursts: Sequence[Burst]) -> dict[str, Any]:
    """Percentiles of all rounds' latencies, the median round's requests per second, the share of cached answers."""
    whole = Burst(sum(burst.seconds for burst in bursts), [one for burst in bursts for one in burst.latencies])
    percentiles = {f"p{percent}_ms": round(whole.ms(percent), 2) for percent in (50, 95, 99)}
    cached = sum(burst.cached for burst in bursts) / len(whole.latencies)
    return {**percentiles, "per_s": round(statistics.median(burst.rate for burst in bursts), 1), "cached": cached}


def compared(ours: Sequence[Burst], others: Sequence[Burst]) -> dict[str, list[float]]:
    """What `ours` add to `others`, round by round: the median, the least and the greatest.

    Returns:
        ``added_p50_ms`` and ``added_p99_ms``, differences of the rounds' percentiles; and ``throughput``, a ratio.
    """
    added = {}
    for percent in (50, 99):
        found = [our.ms(percent) - other.ms(percent) for our, other in zip(ours, others, strict=True)]
        added[f"added_p{percent}_ms"] = [round(f(found), 2) for f in (statistics.median, min, max)]
    return {**added, "throughput": pairwise([our.rate for our in ours], [other.rate for other in others])}


def measure_alone(bench: _Bench, model: str | None) -> dict[str, Any]:
    """The gateway over an engine that answers at once, ``pointwise``, beside a server that only reads the request.

    Args:
        bench: Lets contenders take turns.
        model: Whose tokenizer reads the listings; None for a double's, which is slow.

    Returns:
        By the number of clients (see `CLIENTS`) and contender, what `summary` gives: ``floor``, the server that only
        reads; ``new``, queries that were not asked before; ``cached``, an answer from memory, and ``redis``, from
        Redis, where ``redis-server`` is installed. ``own``: what ``new`` adds to ``floor``, see `compared`.
    """
    with contextlib.ExitStack() as stack:
        post = _poster(stack)
        floor = stack.enter_context(_python("serve_floor", bench.logs / "floor.log"))
        gateway = stack.enter_context(_python("serve_instant", bench.logs / "instant.log", model))
        contenders: dict[str, Contender] = {
            "floor": lambda asked: post(floor, asked, clients, b""),
            "new": lambda asked: post(gateway, asked, clients, _BY_THE_MODEL),
            "cached": lambda asked: post(gateway, repeated(len(asked)), clients, _BY_THE_MODEL),
        }
        if redis := shutil.which("redis-server"):
            address = stack.enter_context(_redis(redis, bench.logs))
            remote = stack.enter_context(_python("serve_instant", bench.logs / "redis-gateway.log", model, address))
            contenders["redis"] = lambda asked: post(remote, repeated(len(asked)), clients, _BY_THE_MODEL)
            post(remote, bench.requests, 1, _BY_THE_MODEL)
        post(gateway, bench.requests, 1, _BY_THE_MODEL)

        def repeated(count: int) -> list[Request]:
            return list(itertools.islice(itertools.cycle(bench.requests), count))

        result = {}
        for clients in CLIENTS:
            found = bench.in_turn(contenders, least=clients)
            own = {"own": compared(found["new"], found["floor"])}
            result[f"{clients} clients"] = {name: summary(bursts) for name, bursts in found.items()} | own
        return result


def measure_batching(bench: _Bench, model: str) -> dict[str, Any]:
    """One client and 32 of ``genrank serve`` on the transformers engine, ``pointwise``, without a cache.

    Returns:
        What `summary` gives for both; and ``times_faster``, the ratio of their throughputs: the median round, the least
        and the greatest.
    """
    with contextlib.ExitStack() as stack:
        post = _poster(stack)
        settings = (bench.logs / "batching.toml").resolve()
        settings.write_text("[cache]\nbytes = 0\n", encoding="utf-8")
        log = bench.logs / "batching.log"
        gateway = stack.enter_context(_gateway(log, "--model", model, "--config", str(settings)))
        found = bench.in_turn(
            {
                "1 client": lambda asked: post(gateway, asked, 1, _BY_THE_MODEL),
                f"{_MANY} clients": lambda asked: post(gateway, asked, _MANY, _BY_THE_MODEL),
            },
            least=2 * _MANY,
        )
        one, many = ([burst.rate for burst in bursts] for bursts in found.values())
        return {name: summary(bursts) for name, bursts in found.items()} | {"times_faster": pairwise(many, one)}


def measure_endpoint(bench: _Bench, model: str, engine: str | None) -> dict[str, Any]:
    """The gateway, the reranker and the bare endpoint, with 8 clients; see the module's text.

    Args:
        bench: Lets contenders take turns.
        model: Its name on the server.
        engine: The server's address; None starts one.

    Returns:
        What `summary` gives for each; and what the gateway adds, ``over_reranker`` and ``over_endpoint``, see
        `compared`.
    """
    with contextlib.ExitStack() as stack:
        post = _poster(stack)
        clients = stack.enter_context(_process())
        url = engine or stack.enter_context(_vllm(bench.logs / "vllm.log", model))
        gateway = stack.enter_context(_gateway(bench.logs / "gateway.log", "--engine", url, "--model", model))

        def bare(asked: Sequence[Request]) -> Burst:
            posts = clients.submit(rendered, url, model, asked).result()
            return clients.submit(post_all, url, posts, _AT_ONCE, b"").result()

        found = bench.in_turn(
            {
                "endpoint": bare,
                "reranker": lambda asked: clients.submit(rank_all, url, model, asked, _AT_ONCE).result(),
                "gateway": lambda asked: post(gateway, asked, _AT_ONCE, _BY_THE_MODEL),
            },
            least=_AT_ONCE,
        )
    result: dict[str, Any] = {name: summary(bursts) for name, bursts in found.items()}
    result["over_reranker"] = compared(found["gateway"], found["reranker"])
    result["over_endpoint"] = compared(found["gateway"], found["endpoint"])
    return result


def as_post(request: Request) -> Post:
    """The request as clients of the gateway send it, with all fields of the listings."""
    documents = [candidate.listing.to_dict() for candidate in request.candidates]
    body = {"query": request.query.text, "documents": documents}
    return "/v2/rerank", json.dumps(body, ensure_ascii=False).encode()


def _poster(stack: contextlib.ExitStack) -> Callable[[str, Sequence[Request], int, bytes], Burst]:
    """Sends requests to a gateway, from another process: its address, the requests, clients, and what answers hold."""
    process = stack.enter_context(_process())

    def post(url: str, requests: Sequence[Request], clients: int, holds: bytes) -> Burst:
        return process.submit(post_all, url, [[as_post(request)] for request in requests], clients, holds).result()

    return post


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def post_all(url: str, posts: Sequence[Sequence[Post]], clients: int, holds: bytes) -> Burst:
    """Send requests from several clients, each of which sends its next one after the answer to the last.

    Args:
        url: The server's address; of its path, nothing counts.
        posts: ``[requests]``; each is one post or several at once.
        clients: How many.
        holds: What every answer must hold.

    Raises:
        EngineError: When an answer has another status than 200, or does not hold that.
    """

    async def run() -> Burst:
        http = _Http(url)
        cached = 0

        async def ask(i: int) -> None:
            nonlocal cached
            for answer in await asyncio.gather(*(http.post(*post) for post in posts[i])):
                if holds not in answer:
                    raise EngineError(f"an answer of {url} does not hold {holds.decode()}: {answer[-300:]!r}")
                cached += _CACHED in answer

        async with http.connected(clients * max(map(len, posts))):
            burst = await _by_clients(ask, len(posts), clients)
        return dataclasses.replace(burst, cached=cached)

    return asyncio.run(run())


def rank_all(url: str, model: str, requests: Sequence[Request], clients: int) -> Burst:
    """`post_all` by a `Reranker` in this process, which renders the prompts and reads the scores.

    Raises:
        EngineError: When a ranking is not the model's.
    """
    reranker = _reranker(url, model)

    async def rank(i: int) -> None:
        (ranking,) = await reranker.arerank_batch([requests[i]])
        if ranking.provenance.outcome != "model":
            raise EngineError(f"the engine at {url} failed: {ranking.provenance.why}")

    return asyncio.run(_by_clients(rank, len(requests), clients))


async def _by_clients(work: Callable[[int], Awaitable[None]], count: int, clients: int) -> Burst:
    latencies = [0.0] * count
    left = iter(range(count))

    async def client() -> None:
        for i in left:
            started = time.perf_counter()
            await work(i)
            latencies[i] = time.perf_counter() - started

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return Burst(time.perf_counter() - started, latencies)


class _Http:
    """Kept-alive connections to one server; common clients take longer than the gateway."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        self._at = (parts.hostname, parts.port or 80)
        key = f"Authorization: Bearer {os.environ[API_KEY]}\r\n" if os.environ.get(API_KEY) else ""
        self._head = f" HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n{key}Content-Length: "
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    @contextlib.asynccontextmanager
    async def connected(self, count: int) -> AsyncIterator[None]:
        """So many connections are open in the block, and no more can be used at once."""
        opened = [await asyncio.open_connection(*self._at) for _ in range(count)]
        self._idle = list(opened)
        try:
            yield
        finally:
            for _, writer in opened:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def post(self, path: str, body: bytes) -> bytes:
        """The body of the answer."""
        reader, writer = self._idle.pop()
        writer.write(f"POST {path}{self._head}{len(body)}\r\n\r\n".encode() + body)
        head = await reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"(?i)\r\ncontent-length: *(\d+)\r\n", head)
        answer = await reader.readexactly(int(found[1])) if found else b""
        if not found or head.split(b" ", 2)[1] != b"200":
            raise EngineError(f"{path} answers {head.splitlines()[0].decode()}: {answer[:300]!r}")
        self._idle.append((reader, writer))
        return answer


@functools.cache
def _reranker(url: str, model: str) -> Reranker:
    return Reranker(model, engine=url, decoding="pointwise")


def rendered(url: str, model: str, requests: Sequence[Request]) -> list[list[Post]]:
    """``[requests]`` of what `Reranker` would send to the engine's endpoint for each; the engine does not get it."""
    reranker, sent = _recorder(url, model)
    found: list[list[Post]] = []
    for request in requests:
        sent.clear()
        reranker.rerank_batch([request])
        found.append(list(sent))
    return found


@functools.cache
def _recorder(url: str, model: str) -> tuple[Reranker, list[Post]]:
    """A reranker that keeps what it sends, from now on, in a list."""
    import httpx

    from genrank.remote.vllm_server import VLLMServer

    class Recorder(httpx.AsyncHTTPTransport):
        records = False

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if not self.records:
                return await super().handle_async_request(request)
            body = await request.aread()
            sent.append((request.url.path, body))
            return httpx.Response(200, json=_flat(json.loads(body)))

    sent: list[Post] = []
    transport = Recorder()
    engine = VLLMServer(url, model, transport=transport)
    transport.records = True
    return Reranker(engine=engine, decoding="pointwise"), sent


def _flat(completion: Mapping[str, Any]) -> dict[str, Any]:
    """An answer to a completion that likes all tokens alike."""
    scores = {f"token_id:{token}": -1.0 for token in completion["logprob_token_ids"]}
    return {"choices": [{"logprobs": {"top_logprobs": [scores]}} for _ in completion["prompt"]]}


def serve_instant(port: int, model: str | None, redis: str | None = None) -> None:
    """Serve the gateway over an engine that answers at once, until a signal says stop.

    Args:
        port: Where.
        model: Whose tokenizer it has; None for a double's.
        redis: Address of Redis for answers; None keeps them in memory.
    """
    from genrank.server.config import Config
    from genrank.server.run import serve

    tokenizer = None if model is None else HubTokenizer(load_tokenizer(resolve(model)))
    config = {"server": {"port": port}, "cache": {"seconds": 86_400, "redis": redis}}
    reranker = Reranker(engine=_Instant(tokenizer), decoding="pointwise")
    serve(reranker, Config.model_validate(config), ())


class _Instant(ScriptedEngine):
    """Answers at once; it can be awaited, as an engine behind HTTP can."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        super().__init__(flat_scores, tokenizer=tokenizer)

    async def ascore(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
        self.requests.clear()
        return self.score(requests, stop=stop)


def serve_floor(port: int) -> None:
    """Serve an app that reads a request and answers two bytes, until a signal says stop."""
    import uvicorn

    async def app(_: Mapping[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})

    uvicorn.run(app, host=_HOST, port=port, lifespan="off", log_config=None, access_log=False)


@contextlib.contextmanager
def _python(function: str, log: Path, *arguments: str | None) -> Iterator[str]:
    """A server of this module, as a process of its own; its address."""
    port = free_port()
    program = f"from {__name__} import {function} as serve; serve({', '.join(map(repr, (port, *arguments)))})"
    with _served(function, [sys.executable, "-c", program], f"http://{_HOST}:{port}/ready", log):
        yield f"http://{_HOST}:{port}"


@contextlib.contextmanager
def _gateway(log: Path, *flags: str) -> Iterator[str]:
    """``genrank serve``; its address."""
    port = free_port()
    command = [sys.executable, "-m", "genrank", "serve", "--port", str(port), "--decoding", "pointwise"]
    with _served("gateway", [*command, "--deadline", str(_DEADLINE), *flags], f"http://{_HOST}:{port}/ready", log):
        yield f"http://{_HOST}:{port}"


@contextlib.contextmanager
def _vllm(log: Path, model: str) -> Iterator[str]:
    """``genrank vllm``; its address."""
    port = free_port()
    command = [sys.executable, "-m", "genrank", "vllm", "--model", model, "--host", _HOST, "--port", str(port)]
    with _served("engine", command, f"http://{_HOST}:{port}/health", log, vllm_settings() | os.environ):
        yield f"http://{_HOST}:{port}/v1"


@contextlib.contextmanager
def _redis(program: str, logs: Path) -> Iterator[str]:
    """Redis, which writes nothing to disk; its address."""
    port = free_port()
    address = f"redis://{_HOST}:{port}/0"
    command = [program, "--port", str(port), "--bind", _HOST, "--save", "", "--appendonly", "no"]
    with _served("Redis", command, address, logs / "redis.log"):
        yield address


def _served(
    name: str, command: Sequence[str], health: str, log: Path, environment: Mapping[str, str] | None = None
) -> contextlib.AbstractContextManager[None]:
    return Server(name, command, health, log, environment).running(_START)
