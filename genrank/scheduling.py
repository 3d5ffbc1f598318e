"""The loop behind `genrank.Reranker`: ranks windows of many queries, batch by batch, until done or out of time.

The loop itself makes no calls. It is a generator that yields the next call to make, an `EngineCall`, a `FallbackCall`
or a `PictureCall`, and is sent the answer. `drive` makes these calls and waits for them; `adrive` awaits them. So the
sync and async ways share all decisions.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import itertools
import math
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from genrank.blending import blended
from genrank.engines.base import Engine, EngineCall, Stop
from genrank.errors import EngineError
from genrank.fallback import Fallback, ask_fallback, failed
from genrank.pictures.loader import Loaded, PictureLoader
from genrank.prompting.renderer import PreparedRequest
from genrank.reasons.write import Reason
from genrank.types import Cause, Claims, Decoding, Interaction, Request, StandIn, Tokens
from genrank.windows import Interrupted, Ranked, Scores, Steps, Window

T = TypeVar("T")

GRACE = 0.02
"""Seconds after a deadline in which an engine may still hand over finished answers; then it is abandoned."""

_FALLBACK_SHARE = 0.25
_FALLBACK_LEAST, _FALLBACK_MOST = 0.05, 2.0


def fallback_seconds(deadline: float) -> float:
    """Seconds past a deadline that a fallback has: a quarter of the deadline, but 0.05 to 2.

    Args:
        deadline: Seconds.
    """
    return min(max(_FALLBACK_LEAST, _FALLBACK_SHARE * deadline), _FALLBACK_MOST)


@dataclass(eq=False)
class FallbackCall:
    """A call of the caller's fallback.

    Attributes:
        fallback: The function.
        requests: Its batch.
        ends: When nobody waits for it any longer, on the clock of ``time.monotonic()``.
    """

    fallback: Fallback
    requests: Sequence[Request]
    ends: float = math.inf

    def run(self) -> list[list[float] | str]:
        """Make the call; see `genrank.fallback.ask_fallback`."""
        _running.add(self)
        try:
            return ask_fallback(self.fallback, self.requests)
        finally:
            _running.discard(self)

    def start(self, patience: float) -> concurrent.futures.Future[list[list[float] | str]]:
        """Make the call in a thread, unless an earlier one should have ended by now: hung calls must not pile up.

        Args:
            patience: Seconds that the caller will wait.
        """
        now = time.monotonic()
        if any(call.fallback is self.fallback and now > call.ends for call in tuple(_running)):
            busy = concurrent.futures.Future[list[list[float] | str]]()
            busy.set_result(failed(self.requests, "an earlier call of it still runs", TimeoutError()))
            return busy
        self.ends = now + patience
        return _in_thread(self.run, "genrank-fallback")

    def late(self, patience: float) -> list[list[float] | str]:
        """The answer when it took longer."""
        return failed(self.requests, f"it took more than {patience:.3g} s", TimeoutError())


_running: set[FallbackCall] = set()


@dataclass(frozen=True, slots=True)
class PictureCall:
    """The pictures of a batch, which are to be loaded.

    Attributes:
        loader: Loads them.
        addresses: Where they are.
    """

    loader: PictureLoader
    addresses: Sequence[str]


Loop = Generator[EngineCall | FallbackCall | PictureCall, Any, T]
"""Yields calls, is sent their answers (an `EngineError` is thrown in), and returns its result."""


class Deadline:
    """When a batch must be answered.

    Args:
        seconds: Seconds from `started`; None for no deadline.
        started: On the clock of ``time.monotonic()``.

    Attributes:
        blame: Why a request was left unanswered if the engine raised no error: the cause, and a message.
    """

    def __init__(self, seconds: float | None, started: float) -> None:
        self.started = started
        self.ends: float = math.inf if seconds is None else started + float(seconds)
        self.blame: tuple[Cause, str] = (
            ("engine-error", "the engine failed: it left a request unanswered")
            if seconds is None
            else ("deadline", f"the deadline of {seconds:g} s passed")
        )

    def passed(self) -> bool:
        """Whether no new work may start."""
        return self.ends != math.inf and time.monotonic() >= self.ends

    def overdue(self) -> bool:
        """Whether work that started in time must be dropped too."""
        return self.ends != math.inf and time.monotonic() >= self.ends + GRACE

    def patience(self) -> float | None:
        """Seconds to wait for an engine from now on; None for as long as it takes."""
        if self.ends == math.inf:
            return None
        return min(max(0.0, self.ends - time.monotonic()) + GRACE, threading.TIMEOUT_MAX)

    def picture_patience(self) -> float | None:
        """Seconds to wait for pictures from now on: half of what is left, so that the model has its part; or None."""
        return None if self.ends == math.inf else max(0.0, self.ends - time.monotonic()) / 2

    def fallback_patience(self) -> float | None:
        """Seconds to wait for a fallback from now on; None for as long as it takes."""
        if self.ends == math.inf:
            return None
        left = max(0.0, self.ends - time.monotonic())
        return min(left + fallback_seconds(self.ends - self.started), threading.TIMEOUT_MAX)


def drive(loop: Loop[T], engine: Engine, deadline: Deadline) -> T:
    """Run a loop to its end in this thread.

    With a deadline, the engine and the fallback work in separate threads, so that they can be abandoned if they hang.
    """
    go_on: Callable[[], EngineCall | FallbackCall | PictureCall] = functools.partial(next, loop)
    while True:
        try:
            call = go_on()
        except StopIteration as stop:
            result: T = stop.value
            return result
        try:
            if isinstance(call, FallbackCall):
                answer: Any = _run_fallback(call, deadline)
            elif isinstance(call, PictureCall):
                answer = call.loader.load(call.addresses, deadline.picture_patience())
            else:
                answer = _run(call, engine, deadline)
            go_on = functools.partial(loop.send, answer)
        except EngineError as error:
            go_on = functools.partial(loop.throw, error)


async def adrive(loop: Loop[T], engine: Engine, deadline: Deadline) -> T:
    """Run a loop to its end in this task; when the task is cancelled, so is the engine's work.

    A `genrank.engines.base.AsyncEngine` is awaited; any other engine, and the fallback, run in a thread.
    """
    go_on: Callable[[], EngineCall | FallbackCall | PictureCall] = functools.partial(next, loop)
    while True:
        try:
            call = go_on()
        except StopIteration as stop:
            result: T = stop.value
            return result
        try:
            if isinstance(call, FallbackCall):
                answer: Any = await await_fallback(call, deadline.fallback_patience())
            elif isinstance(call, PictureCall):
                answer = await call.loader.aload(call.addresses, deadline.picture_patience())
            else:
                answer = await _arun(call, engine, deadline)
            go_on = functools.partial(loop.send, answer)
        except EngineError as error:
            go_on = functools.partial(loop.throw, error)


def _run_fallback(call: FallbackCall, deadline: Deadline) -> list[list[float] | str]:
    patience = deadline.fallback_patience()
    if patience is None:
        return call.run()
    working = call.start(patience)
    done = concurrent.futures.wait([working], patience).done
    return working.result() if done else call.late(patience)


async def await_fallback(call: FallbackCall, patience: float | None) -> list[list[float] | str]:
    """Make a call of a fallback in a thread, and await its answer; see `genrank.fallback.ask_fallback`.

    Args:
        call: The call.
        patience: Seconds after which it is abandoned; None for as long as it takes.
    """
    working = asyncio.wrap_future(call.start(math.inf if patience is None else patience))
    try:
        await asyncio.wait({working}, timeout=patience)
        return working.result() if working.done() or patience is None else call.late(patience)
    finally:
        working.cancel()


def _run(call: EngineCall, engine: Engine, deadline: Deadline) -> list[Any]:
    stop = Stop(deadline.ends)
    patience = deadline.patience()
    if patience is None:
        return call.run(engine, stop)
    working = _in_thread(lambda: call.run(engine, stop))
    try:
        done = concurrent.futures.wait([working], patience).done
    finally:
        stop.cancel()  # the call has ended, was abandoned, or the caller was interrupted
    return working.result() if done else _finished(call, stop)


async def _arun(call: EngineCall, engine: Engine, deadline: Deadline) -> list[Any]:
    stop = Stop(deadline.ends)
    method: Callable[..., Awaitable[list[Any]]] | None = getattr(engine, f"a{call.kind}", None)
    working: asyncio.Future[list[Any]]
    if method is not None:
        working = asyncio.ensure_future(method(call.requests, stop=stop))
    else:
        working = asyncio.wrap_future(_in_thread(lambda: call.run(engine, stop)))
    working.add_done_callback(lambda future: future.cancelled() or future.exception())  # else asyncio logs it unread
    try:
        done, _ = await asyncio.wait({working}, timeout=deadline.patience())
    finally:
        stop.cancel()
        working.cancel()
    return working.result() if done else _finished(call, stop)


def _finished(call: EngineCall, stop: Stop) -> list[Any]:
    """The answers that an abandoned engine has published."""
    return [stop.finished(request) for request in call.requests]


def _in_thread(work: Callable[[], T], name: str = "genrank-engine") -> concurrent.futures.Future[T]:
    """Run `work` in a daemon thread; if it hangs, it does not keep the interpreter from exiting."""
    future = concurrent.futures.Future[T]()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # raised again where the future is awaited
            with contextlib.suppress(concurrent.futures.InvalidStateError):  # cancelled meanwhile
                future.set_exception(error)
        else:
            with contextlib.suppress(concurrent.futures.InvalidStateError):
                future.set_result(result)

    threading.Thread(target=run, daemon=True, name=name).start()
    return future


class QueryState:
    """One query on its way through a batch."""

    def __init__(self, request: Request, steps: Steps, prepared: PreparedRequest) -> None:
        self.request = request
        self.prepared = prepared
        self.windows: list[Window] = next(steps)  # ready to be ranked; empty when done
        self.order: Sequence[int] = range(len(request.candidates))
        self.scores: Mapping[int, float] = {}
        self.cause: Cause = ""
        self.why: str = ""
        self.stand_in: StandIn = ""
        self.ranked = 0  # windows, over all passes
        self.kept = 0  # candidates whose listing the engine had kept
        self.repairs: list[str] = []
        self.reasons_missing: int = 0
        self.tokens: Tokens = Tokens()
        self.cuts: Counter[str] = Counter()
        self.neutralised = 0
        self.taus: list[float] = []
        self.blend: float | None = None  # the model's weight beside the first stage
        self.reasons: dict[int, Reason] = {}
        self.claims: Claims = Claims()
        self.pictures: Loaded = MappingProxyType({})  # by address
        self.pictures_used = 0
        self.past: Mapping[int, Interaction] | None = None  # interactions for reasons, by place in the history
        self.ended: float = 0.0  # when its answer was last complete
        self._steps = steps

    def advance(self, scores: Sequence[Scores]) -> None:
        """Take the scores of the ready windows."""
        try:
            self.windows = self._steps.send(scores)
        except StopIteration as stop:
            self._finish(stop.value)

    def interrupt(self, cause: Cause, why: str, finished: Mapping[int, Scores] = MappingProxyType({})) -> None:
        """Give up the remaining windows, but keep what is ranked: `finished` holds scores by ready window."""
        self.cause = cause
        self.why = why
        try:
            self._steps.throw(Interrupted(finished))
        except StopIteration as stop:
            self._finish(stop.value)

    @property
    def unranked(self) -> list[int]:
        """Places that no finished window held, in the current order."""
        return [place for place in self.order if place not in self.scores]

    def order_unranked(self, scores: Sequence[float]) -> None:
        """Sort the unranked places by ``[n]`` scores; ranked places stay, and ties keep their order."""
        by_score = iter(sorted(self.unranked, key=lambda place: -scores[place]))
        self.order = [place if place in self.scores else next(by_score) for place in self.order]

    def falling_scores(self) -> list[float]:
        """Scores in the ranking's order, never rising.

        A score that exceeds the one before it (because it comes from another window) is lowered to that one. If some
        candidates were never ranked, scores only reflect the position: ``(n - position) / n``, 0-based.
        """
        n = len(self.order)
        if len(self.scores) < n:
            return [(n - i) / n for i in range(n)]
        return list(itertools.accumulate((self.scores[place] for place in self.order), min))

    def blend_in(self, first_stage: Sequence[float], weight: float, decoding: Decoding) -> None:
        """Blend the scores with the first stage's, and reorder all candidates, each of which must be ranked.

        Args:
            first_stage: ``[n]`` scores by place.
            weight: Weight of the model.
            decoding: Where its scores come from.
        """
        order = self.order
        found = blended(self.falling_scores(), [first_stage[place] for place in order], weight, decoding)
        self.order = [order[i] for i in found.order]
        self.scores = dict(zip(order, found.scores, strict=True))
        self.blend = weight
        self.done()

    def no_reason(self, place: int, cause: Cause, why: str) -> None:
        """Record that a candidate has no reason."""
        self.cause = self.cause or cause
        self.reasons_missing += 1
        self.repairs.append(f"no reason for {self.request.candidates[place].listing.listing_id}: {why}")

    def repaired(self, repairs: Sequence[str]) -> None:
        """Record what the engine had to guess or change in a window's answer, each in words."""
        self.cause = self.cause or "bad-output"
        self.repairs += repairs

    def done(self) -> None:
        """Record that the answer is complete for now."""
        self.ended = time.monotonic()

    def _finish(self, ranked: Ranked) -> None:
        self.windows = []
        self.order, self.scores = ranked.order, ranked.scores
        self.done()
