"""The service behind the routes: cache, circuit breaker, batches and deadlines over a reranker, without HTTP."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from genrank.cascade import Cascade
from genrank.errors import InputError
from genrank.reranker import Reranker
from genrank.scheduling import GRACE, FallbackCall, await_fallback, fallback_seconds
from genrank.server.answers import Answer, dump, load
from genrank.server.batching import Batcher, ModelThread, Options, QueueFullError, is_late
from genrank.server.breaker import Breaker
from genrank.server.cache import Cache, Flights, cache_key, make_cache
from genrank.server.config import Config
from genrank.server.logs import log
from genrank.server.telemetry import Metrics
from genrank.types import Cause, Provenance, Ranking, Request

Ranker = Reranker | Cascade

_MARGIN = 0.05  # of the deadline, for all that comes after the model
_AWAITED = 8  # batches at once, for an engine that can be awaited


@dataclass(frozen=True, slots=True)
class _Work:
    """A request on its way to the model: what it asks for, when it must be answered, and the seconds it has in all."""

    request: Request
    options: Options
    ends: float
    seconds: float


class DownError(Exception):
    """The model ranked nothing of a request, and the configuration says to refuse such an answer."""


class Gateway:
    """Answers rerank requests. Create it, and await everything else, in one event loop.

    Args:
        ranker: Ranks; it is closed with the gateway.
        config: Everything else.
        cache: In place of the configured one.
    """

    def __init__(self, ranker: Ranker, config: Config, *, cache: Cache | None = None) -> None:
        self.ranker = ranker
        self.config = config
        self.metrics: Metrics = Metrics()
        self.first: Reranker = ranker.first if isinstance(ranker, Cascade) else ranker
        self.breaker: Breaker = Breaker(config.breaker.failures, config.breaker.cool_down)
        self._fingerprint = ranker.fingerprint
        self._cache = cache or make_cache(config.cache, on_error=self._cache_failed)
        self._flights: Flights[Answer] = Flights()
        self._keeping: set[asyncio.Future[None]] = set()
        self._thread = ModelThread()
        deadline = config.server.deadline
        concurrency = config.batching.concurrency or (_AWAITED if hasattr(self.first.engine, "ascore") else 1)
        self._batcher = Batcher(
            self._rank,
            config.batching,
            concurrency=concurrency,
            slack=_margin(deadline) / 2,
            fair=deadline / 2,
            on_batch=self.metrics.batches.observe,
        )
        self.metrics.waiting.set_function(lambda: float(self._batcher.waiting))
        self.metrics.admitted.set_function(lambda: float(self._batcher.admitted))
        self.metrics.breaker.set_function(lambda: float(self.breaker.state == "open"))

    @property
    def names(self) -> tuple[str, ...]:
        """What clients may call the model; the first one is its own name."""
        model = self.config.model
        own = model.name or PurePath(self.first.engine.adapter or self.first.engine.model).name
        return (own, *model.aliases)

    @property
    def ready(self) -> bool:
        """Whether requests get an answer: always, unless it is to refuse them while the engine is down."""
        return self.config.server.when_down == "answer" or self.breaker.state != "open"

    @property
    def retry_after(self) -> int:
        """Whole seconds after which there is likely room in the queue."""
        return self._batcher.retry_after

    async def rerank(
        self, request: Request, *, top_k: int | None, reasons: int, ends: float, ranker: Reranker | None = None
    ) -> tuple[Answer, bool]:
        """Rank a request's candidates, and count the answer; see `rank`."""
        started = ends - self.config.server.deadline
        answer, cached = await self.rank(request, top_k=top_k, reasons=reasons, ends=ends, ranker=ranker)
        self.metrics.answered(answer, cached=cached, seconds=time.monotonic() - started)
        return answer, cached

    async def rank(
        self,
        request: Request,
        *,
        top_k: int | None,
        reasons: int,
        ends: float,
        seconds: float | None = None,
        ranker: Reranker | None = None,
    ) -> tuple[Answer, bool]:
        """Rank a request's candidates.

        Args:
            request: Its history is masked already.
            top_k: How many items the client wants. Only a ``tournament`` needs to know, if it can find as many; any
                other answer holds all.
            reasons: How many of the first items get a reason.
            ends: When the answer must be there, on the clock of ``time.monotonic()``.
            seconds: How long the request may take in all, some of which the model does not get; by default the
                server's deadline.
            ranker: Ranks in place of the gateway's own, with the same engine.

        Returns:
            The answer, and whether it was kept from before.

        Raises:
            InputError: When an option is wrong, or the request cannot be ranked.
            QueueFullError: When too many requests wait.
            DownError: When the model ranked nothing, and the configuration says to refuse such an answer.
        """
        seconds = self.config.server.deadline if seconds is None else seconds
        first = ranker or self.first
        finds_top = first.strategy == "tournament" and top_k is not None and top_k <= first.window
        options = Options(reasons, top_k if finds_top else None, ranker)
        (ranker or self.ranker).check_options(top_k=options.top_k, reasons=options.reasons)
        fingerprint = ranker.fingerprint if ranker else self._fingerprint
        key = cache_key(fingerprint, request, options.reasons, options.top_k)
        stored = await self._cache.get(key)
        answer = load(stored, len(request.candidates)) if stored is not None else None
        cached = answer is not None
        self.metrics.cache.labels("hit" if cached else "miss").inc()
        if answer is None:
            work = _Work(request, options, ends, seconds)
            # who has another deadline must not wait for this one, nor be cut short with it
            answer = await self._flights.share((key, seconds), lambda: self._compute(key, work))
        if self.config.server.when_down == "refuse" and answer.outcome == "fallback" and not answer.windows:
            raise DownError
        return answer, cached

    async def close(self) -> None:
        """Drop all work, and free the model."""
        await self._batcher.close()
        await asyncio.gather(*self._keeping)
        await self._cache.close()
        await asyncio.to_thread(self._thread.close)
        await asyncio.to_thread(self.ranker.close)

    async def _compute(self, key: str, work: _Work) -> Answer:
        trying = self.breaker.state != "closed"
        if not self.breaker.admits():
            return await self._stand_in(work, "engine-error")
        # a try is to end soon, and reasons take longer than the order
        options = dataclasses.replace(work.options, reasons=0) if trying else work.options
        model_ends = work.ends - _margin(work.seconds) - self._stand_in_seconds(work)
        try:
            async with asyncio.timeout(work.ends - time.monotonic()):
                ranking = await self._batcher.submit(work.request, options, model_ends, leaves=model_ends)
        except TimeoutError:
            return await self._stand_in(work, "deadline")
        except (InputError, QueueFullError):
            raise
        except Exception as error:  # whatever a ranker or its engine raises, nothing is lost
            log(logging.ERROR, "the reranker failed", error=type(error).__name__)
            return await self._stand_in(work, "engine-error")
        finally:
            if trying:
                self.breaker.give_up()  # no effect if its end was recorded
        answer = Answer.of(work.request, ranking, reasons=options.reasons)
        if options.reasons < work.options.reasons and answer.outcome != "fallback":
            missing, cause = min(work.options.reasons, len(ranking)), answer.cause or "engine-error"
            answer = dataclasses.replace(answer, outcome="repaired", cause=cause, reasons_missing=missing)
        if answer.outcome == "model":
            keeping = asyncio.ensure_future(self._cache.put(key, dump(answer)))  # nobody waits for a slow cache
            self._keeping.add(keeping)
            keeping.add_done_callback(self._keeping.discard)
        return answer

    async def _rank(self, requests: Sequence[Request], options: Options, ends: float) -> list[Ranking]:
        """Rank a batch in the model's thread."""
        left = ends - time.monotonic()
        work = (options.ranker or self.ranker).arerank_batch(
            requests, top_k=options.top_k, reasons=options.reasons, deadline=max(left, 1e-9)
        )
        try:
            rankings = await self._thread.call(work)
        except InputError:
            raise
        except Exception:
            self.breaker.record(failed=True)
            raise
        had_time = left >= self.config.server.deadline / 2  # else the queue is to blame for what was not finished
        self.breaker.record(failed=any(_engine_failed(ranking.provenance, had_time) for ranking in rankings))
        return rankings

    def _stand_in_seconds(self, work: _Work) -> float:
        """Seconds that are kept for the fallback."""
        return fallback_seconds(work.seconds) if self.first.fallback else 0.0

    async def _stand_in(self, work: _Work, cause: Cause) -> Answer:
        """The fallback's order, or the first stage's, without the model; for one candidate nobody is asked."""
        scores: Sequence[float] | str = ""
        count = len(work.request.candidates)
        patience = min(self._stand_in_seconds(work), work.ends - _margin(work.seconds) / 2 - time.monotonic())
        if self.first.fallback is not None and patience > 0 and count > 1:
            (scores,) = await await_fallback(FallbackCall(self.first.fallback, [work.request]), patience)
        return Answer.stand_in(count, cause, None if isinstance(scores, str) else scores)

    def _cache_failed(self) -> None:
        self.metrics.cache.labels("error").inc()


def _margin(seconds: float) -> float:
    """Of so many seconds, those that are kept for all that comes after the model."""
    return max(2 * GRACE, _MARGIN * seconds)


def _engine_failed(provenance: Provenance, had_time: bool) -> bool:
    """Whether the engine is to blame: it raised an error, or ranked nothing though it had time."""
    return provenance.cause == "engine-error" or (had_time and is_late(provenance))
