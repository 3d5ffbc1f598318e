"""Ranks requests that arrive together as one batch, in a bounded queue; no more at once than the engine can take."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from genrank.errors import EngineError, InputError
from genrank.reranker import Reranker
from genrank.server.config import BatchingConfig
from genrank.types import Provenance, Ranking, Request

T = TypeVar("T")

_CLOSED = "the gateway shuts down"
_WAIT = 0.001  # seconds that a batch waits for more requests, where batches run one after the other
_LONGEST_WAIT = 60  # seconds; clients do not honour a longer Retry-After


@dataclass(frozen=True, slots=True)
class Options:
    """What requests must have in common to share a batch; see `genrank.Reranker.rerank_batch`.

    Attributes:
        reasons: How many of the first items get a reason.
        top_k: How many items are wanted.
        ranker: Ranks in place of the gateway's own; None for that one.
    """

    reasons: int = 0
    top_k: int | None = None
    ranker: Reranker | None = None


class QueueFullError(Exception):
    """No further request may wait.

    Attributes:
        retry_after: Whole seconds after which there is likely room.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__("too many requests wait")
        self.retry_after = retry_after


Rank = Callable[[Sequence[Request], Options, float], Awaitable[list[Ranking]]]
"""Ranks a batch: takes the requests, what they have in common, and when it must be done, on the clock of
``time.monotonic()``."""


@dataclass(eq=False, slots=True)
class _Job:
    request: Request
    options: Options
    ends: float
    answer: asyncio.Future[Ranking]
    batch: _Batch | None = None

    def is_in_time(self, slack: float) -> bool:
        """Whether it is in a batch that ends with it."""
        return self.batch is not None and max(job.ends for job in self.batch.jobs) <= self.ends + slack


@dataclass(eq=False, slots=True)
class _Batch:
    wanted: int = 0  # jobs that somebody still waits for
    task: asyncio.Task[None] | None = None
    jobs: list[_Job] = field(default_factory=list)

    def leave(self) -> None:
        """One of its callers has gone; without any, the work stops."""
        self.wanted -= 1
        if not self.wanted and self.task is not None:
            self.task.cancel()


class Batcher:
    """Collects requests into batches.

    Args:
        rank: Ranks a batch.
        config: Sizes.
        concurrency: Batches that run at once.
        slack: Seconds that a batch may take beyond the end of one of its requests without being late for it.
        fair: Seconds that are enough for a batch: if it had as many, and the engine ranked nothing of a request in
            them, the engine has too much to do.
        on_batch: Told the size of each batch when it starts.
    """

    def __init__(
        self,
        rank: Rank,
        config: BatchingConfig,
        *,
        concurrency: int = 1,
        slack: float = 0.0,
        fair: float = 0.0,
        on_batch: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._rank = rank
        self._config = config
        self._concurrency = concurrency
        self._slack = slack
        self._fair = fair
        self._in_flight = 0
        self._most = self._admitted = float(config.size * concurrency)
        self._wait = config.wait if config.wait is not None else _WAIT if concurrency == 1 else 0.0
        self._on_batch = on_batch
        self._waiting: deque[_Job] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False
        self._pace = 0.0  # seconds that a request took lately, as a moving mean
        self._takes = 0.0  # seconds that a batch took lately which was in time, as a moving mean

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def admitted(self) -> int:
        """Requests that may be in batches at once.

        All engines slow down with what they do at once. One that cannot finish anything in time is asked for half as
        much, down to one request, and then for more, little by little, as long as it is in time.
        """
        return int(self._admitted)

    @property
    def retry_after(self) -> int:
        """Whole seconds after which there is likely room in the queue."""
        expected = len(self._waiting) * self._pace / self._concurrency
        return max(1, min(_LONGEST_WAIT, math.ceil(expected)))

    async def submit(self, request: Request, options: Options, ends: float, *, leaves: float | None = None) -> Ranking:
        """Rank a request in the next batch. When the caller is cancelled, the request is dropped.

        Args:
            request: The request.
            options: Only requests with equal options share a batch.
            ends: When the model must be done with it, on the clock of ``time.monotonic()``. A batch has until the
                latest end of its requests, so that one that has waited long takes no time from the others; its caller
                stops waiting.
            leaves: When it is dropped if it is not in a batch that ends with it; None waits on.

        Raises:
            TimeoutError: When it was dropped.
            QueueFullError: When no further request may wait.
            InputError: When the request cannot be ranked.
            EngineError: When the batcher is closed.
        """
        if self._closed:
            raise EngineError(_CLOSED)
        if len(self._waiting) >= self._config.queue:
            raise QueueFullError(self.retry_after)
        job = _Job(request, options, ends, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._start()
        try:
            if leaves is not None:
                done, _ = await asyncio.wait({job.answer}, timeout=max(0.0, leaves - time.monotonic()))
                if not done and not job.is_in_time(self._slack):
                    raise TimeoutError
            return await job.answer
        finally:
            job.answer.cancel()  # no effect if it is there
            if job.answer.cancelled():
                self._drop(job)

    async def close(self) -> None:
        """Drop all work, and take no more."""
        self._closed = True
        while self._waiting:
            _fail(self._waiting.popleft(), EngineError(_CLOSED))
        running = tuple(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _drop(self, job: _Job) -> None:
        """Forget a request that nobody waits for."""
        if job.batch is not None:
            job.batch.leave()
        elif job in self._waiting:
            self._waiting.remove(job)

    def _start(self) -> None:
        """Start a batch if there is work, and room for one."""
        if self._waiting and len(self._running) < self._concurrency and self._in_flight < self.admitted:
            batch = _Batch()
            task = batch.task = asyncio.ensure_future(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._start()

    async def _run(self, batch: _Batch) -> None:
        if len(self._waiting) < self._config.size and self._wait:
            await asyncio.sleep(self._wait)
        self._collect(batch)
        if not batch.jobs:
            return
        started = time.monotonic()
        self._on_batch(len(batch.jobs))
        try:
            await self._answer(batch.jobs)
        finally:
            self._in_flight -= len(batch.jobs)
            for job in batch.jobs:
                _fail(job, EngineError(_CLOSED))  # those that are not answered by now
        took = (time.monotonic() - started) / len(batch.jobs)
        self._pace = _moved(self._pace, took)

    def _collect(self, batch: _Batch) -> None:
        """Move the first request that can be in time, and those that can share its batch, out of the queue."""
        if not self._waiting:
            return
        soonest = time.monotonic() + self._takes
        hopeful = [job for job in self._waiting if job.ends >= soonest] or list(self._waiting)
        options = hopeful[0].options
        room = max(0, min(self._config.size, self.admitted - self._in_flight))
        batch.jobs = [job for job in hopeful if job.options == options][:room]
        for job in batch.jobs:
            job.batch = batch
        batch.wanted = len(batch.jobs)
        self._in_flight += len(batch.jobs)
        self._waiting = deque(job for job in self._waiting if job.batch is None)
        self._start()

    async def _answer(self, jobs: Sequence[_Job]) -> None:
        started, ends = time.monotonic(), max(job.ends for job in jobs)
        try:
            rankings = await self._rank([job.request for job in jobs], jobs[0].options, ends)
        except InputError as error:
            if len(jobs) > 1:  # one request that cannot be ranked must not affect the others
                for job in jobs:
                    await self._answer([job])
            else:
                _fail(jobs[0], error)
        except Exception as error:
            for job in jobs:
                _fail(job, error)
        else:
            self._admit(rankings, time.monotonic() - started, had_time=ends - started >= self._fair)
            for job, ranking in zip(jobs, rankings, strict=True):
                if not job.answer.done():
                    job.answer.set_result(ranking)

    def _admit(self, rankings: Sequence[Ranking], took: float, *, had_time: bool) -> None:
        """Learn from a batch how many requests the engine can take, and how long it takes."""
        made = [one.provenance for one in rankings]
        if any(is_late(one) for one in made):
            if had_time:
                self._admitted = max(1.0, min(self._admitted, self._in_flight) / 2)
        elif in_time := sum(one.windows > 0 for one in made):
            self._admitted = min(self._most, self._admitted + in_time / self._admitted)
            self._takes = _moved(self._takes, took)


def is_late(provenance: Provenance) -> bool:
    """Whether time was over before the engine had ranked anything."""
    return provenance.cause == "deadline" and not provenance.windows


def _moved(mean: float, new: float) -> float:
    """A moving mean after another value; 0 before the first."""
    return new if not mean else 0.8 * mean + 0.2 * new


def _fail(job: _Job, error: Exception) -> None:
    if not job.answer.done():
        job.answer.set_exception(error)


class ModelThread:
    """An event loop in a thread of its own, where rendering and ranking do not hold up the server's."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True, name="genrank-model")
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine in the thread; when the caller is cancelled, it is too."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def close(self, timeout: float = 5.0) -> None:
        """Stop the loop; work that does not end in `timeout` seconds is left behind."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout)
