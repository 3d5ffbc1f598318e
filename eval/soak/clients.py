"""The shop's clients: steady ones, a crowd, slow ones, and ones that hang up. Each checks its own answers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from eval.soak.answers import BY_THE_MODEL, Asked, Broken, Checked, Reply, check
from eval.soak.wire import cut, post_head, read_head
from genrank.data.dataset import Dataset
from genrank.data.jsonl import interaction_fields

PATH = "/v2/rerank"
_PATIENCE = 3.0  # times the deadline; then a client gives up, and the request counts as not answered
_TOO_SLOW = 0.75  # of the deadline
_SHORT = 8  # documents of a request in a crowd
_EXAMPLES = 20  # of each broken promise


class Requests:
    """Draws requests from a dataset: most are new, some come again, some hold odd documents.

    Args:
        dataset: Queries, histories and listings.
        seed: Of the draws.
        most: The most documents of a request.
    """

    def __init__(self, dataset: Dataset, seed: int, most: int = 20) -> None:
        self._queries = dataset.queries
        self._listings = [listing.to_dict() for listing in dataset.listings.values()]
        self._random = random.Random(seed)
        self._most = most
        self._drawn = 0

    def draw(self, most: int | None = None) -> tuple[Asked, dict[str, Any]]:
        """A request of at most so many documents: what its answer must be, and its body."""
        chance = self._random
        again = chance.random() < 0.1
        if again:
            chance = random.Random(chance.randrange(8))
        query = chance.choice(self._queries)
        count = chance.randint(2, min(most or self._most, self._most))
        documents: list[Any] = [chance.choice(self._listings) for _ in range(count)]  # some twice
        for place in range(count):
            if chance.random() < 0.1:  # plain text, one of them without anything to read
                documents[place] = chance.choice((documents[place]["title"], "\u200b \n"))
            else:
                documents[place] = documents[place] | {"listing_id": f"{place}"}
        self._drawn += 1
        text = query.query.text if again else f"{query.query.text} {self._drawn}"
        body: dict[str, Any] = {"query": text, "documents": documents}
        if chance.random() < 0.2:
            body["history"] = [interaction_fields(one) for one in query.history]
        if chance.random() < 0.15:
            body["reasons"] = 1
        wanted = chance.randint(1, count) if chance.random() < 0.2 else None
        if wanted is not None:
            body["top_n"] = wanted
        return Asked(count, wanted), body


@dataclass
class Tally:
    """What the clients saw.

    Attributes:
        outcomes: Requests by what became of them: the tier, or the status where there is no ranking.
        causes: Rankings by their cause; empty where the model ranked.
        clients: Requests by the kind of client.
        seconds: ``[answers]`` of the rankings that were not kept from before, by tier.
        broken: How often each promise was broken.
        examples: The first few of each.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    clients: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    broken: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def break_(self, broken: Broken, who: str = "") -> None:
        """Count a broken promise."""
        self.broken[broken.promise] += 1
        examples = self.examples.setdefault(broken.promise, [])
        if len(examples) < _EXAMPLES:
            examples.append(f"{who}: {broken.words}" if who else broken.words)

    def add(self, kind: str, reply: Reply, checked: Checked, at: str) -> None:
        """Count an answer; `at` says when it came."""
        self.clients[kind] += 1
        self.outcomes[checked.tier or (f"status {reply.status}" if reply.status else "no answer")] += 1
        if checked.tier:
            self.causes[checked.cause] += 1
            if not checked.cached:
                self.seconds.setdefault(checked.tier, []).append(reply.seconds)
        for broken in checked.broken:
            self.break_(broken, f"{at}, a {kind} client")


class Clients:
    """Asks one gateway.

    Args:
        port: The gateway's, on this machine.
        requests: What they ask.
        deadline: The gateway's, in seconds.
        tally: Gets every answer.
        seed: Of their pauses.
        pause: The longest that a client waits before its next request, in seconds.
        now: Says at what time of the run something happened, in words.
        held_up: Seconds for which this program itself has stood still so far; they do not count.
    """

    def __init__(
        self,
        port: int,
        requests: Requests,
        deadline: float,
        tally: Tally,
        seed: int,
        *,
        pause: float = 0.2,
        now: Callable[[], str] = lambda: "",
        held_up: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._port = port
        self._requests = requests
        self._deadline = deadline
        self._tally = tally
        self._random = random.Random(seed)
        self._pause = pause
        self._now = now
        self._held_up = held_up
        self._leaving = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._trickled = 0
        self._places = itertools.cycle(("head", "body", "waiting", "answer"))
        self.model_answered = 0.0
        """When the model last ranked a new request, on the clock of ``time.monotonic()``."""

    def start(self, steady: int, slow: int, vanishing: int) -> None:
        """Start so many of each; they ask until `stop`."""
        kinds: Sequence[tuple[Callable[[], Awaitable[None]], int]] = (
            (self._steady, steady),
            (self._slow, slow),
            (self._vanish, vanishing),
        )
        self._tasks = [asyncio.create_task(self._repeat(client)) for client, count in kinds for _ in range(count)]

    async def stop(self) -> None:
        """Let each finish what it is at.

        Raises:
            Exception: What went wrong in the clients themselves.
        """
        self._leaving.set()
        await asyncio.gather(*self._tasks)

    async def crowd(self, count: int) -> None:
        """So many requests at once, by as many new clients."""
        async with self._client() as client:
            await asyncio.gather(*(self._ask(client, "crowd", most=_SHORT) for _ in range(count)))

    async def _repeat(self, client: Callable[[], Awaitable[None]]) -> None:
        while not self._leaving.is_set():
            await client()

    def _client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None)
        return httpx.AsyncClient(timeout=_PATIENCE * self._deadline, limits=limits, trust_env=False)

    async def _steady(self) -> None:
        """Ask again and again over one connection."""
        async with self._client() as client:
            while not self._leaving.is_set():
                reply = await self._ask(client, "steady")
                await self._rest(float(reply.retry_after) if reply.retry_after.isdecimal() else None)

    async def _rest(self, seconds: float | None = None) -> None:
        """Pause for so long, or for what the client's own pauses are; the end comes at once."""
        pause = self._random.uniform(0.0, self._pause) if seconds is None else seconds
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._leaving.wait(), pause)

    async def _ask(self, client: httpx.AsyncClient, kind: str, most: int | None = None) -> Reply:
        asked, body = self._requests.draw(most)
        data = json.dumps(body).encode()
        started = self._clock()
        try:
            got = await client.post(f"http://127.0.0.1:{self._port}{PATH}", content=data)
        except httpx.HTTPError as error:
            reply = Reply(0, self._clock() - started, words=f"{type(error).__name__} {error}")
        else:
            seconds = self._clock() - started
            reply = Reply(got.status_code, seconds, got.content, got.headers.get("Retry-After", ""))
        self._take(kind, asked, reply)
        return reply

    def _clock(self) -> float:
        """The time in seconds, without those in which other work on the machine held us up."""
        return time.monotonic() - self._held_up()

    def _take(self, kind: str, asked: Asked, reply: Reply) -> None:
        checked = check(asked, reply, self._deadline)
        if checked.tier in BY_THE_MODEL and not checked.cached:
            self.model_answered = time.monotonic()
        self._tally.add(kind, reply, checked, self._now())

    async def _slow(self) -> None:
        """Send a small request byte by byte, and read the answer in small bites; or never send all of it."""
        asked, body = self._requests.draw(3)
        data = json.dumps(body | {"history": []}).encode()
        self._trickled += 1
        stuck = self._trickled % 6 == 2
        if stuck:
            asked, data = Asked(asked.documents, asked.wanted, (408,)), data[: len(data) // 2]
        reply = await self._trickle(data, len(data) + stuck)
        if reply is None:
            self._tally.clients["slower than meant"] += 1
        else:
            self._take("stuck" if stuck else "slow", asked, reply)

    async def _trickle(self, data: bytes, length: int) -> Reply | None:
        """Send a body of `length` bytes, of which there are only `data`, within half the deadline.

        None when a busy machine made that most of the deadline, which is too late for an answer.
        """
        started, begun, sent = self._clock(), time.monotonic(), 0.0
        writer = None
        try:
            async with asyncio.timeout(_PATIENCE * self._deadline):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                writer.write(post_head(PATH, length))
                started, begun = self._clock(), time.monotonic()
                sent_by = begun + self._random.uniform(0.1, 0.5) * self._deadline
                for at in range(len(data)):
                    writer.write(data[at : at + 1])
                    if at % 4 == 3:  # a packet for every few bytes is slow enough
                        await writer.drain()
                        await asyncio.sleep(max(0.0, sent_by - time.monotonic()) * 4 / (len(data) - at))
                sent = time.monotonic()
                head = await read_head(reader)
                seconds = self._clock() - started
                left, found = int(head.headers.get("content-length", 0)), bytearray()
                while len(found) < left:
                    part = await reader.read(16)
                    if not part:
                        raise EOFError(f"the answer ends after {len(found)} of {left} bytes")
                    found += part
                    await asyncio.sleep(0.001)
        except (OSError, EOFError, TimeoutError) as error:
            if (sent or time.monotonic()) - begun > _TOO_SLOW * self._deadline:
                return None
            return Reply(0, self._clock() - started, words=f"{type(error).__name__} {error}")
        finally:
            if writer is not None:
                await _leave(writer, writer.close)
        if sent - begun > _TOO_SLOW * self._deadline:
            return None
        return Reply(int(head.first[1]), seconds, bytes(found), head.headers.get("retry-after", ""))

    async def _vanish(self) -> None:
        """Hang up: within the head, within the body, while waiting, or in the middle of the answer."""
        _, body = self._requests.draw()
        data = json.dumps(body).encode()
        whole = post_head(PATH, len(data)) + data
        where = next(self._places)
        sent = {"head": whole[:20], "body": whole[: -len(data) // 2]}.get(where, whole)
        writer = None
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(sent)
            await writer.drain()
            if where == "answer":
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(30), self._deadline)
            else:
                await asyncio.sleep(self._random.uniform(0.0, 0.3))
        except OSError as error:
            self._tally.break_(Broken("alive", f"no connection: {type(error).__name__} {error}"), self._now())
            await asyncio.sleep(0.5)
        finally:
            if writer is not None:
                await _leave(writer, writer.close if self._random.random() < 0.5 else lambda: cut(writer))
        self._tally.clients["vanishing"] += 1
        await self._rest(self._random.uniform(0.05, 0.1 + self._pause))


async def _leave(writer: asyncio.StreamWriter, end: Callable[[], None]) -> None:
    end()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
