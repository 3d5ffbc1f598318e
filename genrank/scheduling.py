"""The loop beneath `genrank.Reranker`: windows of many queries, batch by batch, until all are ranked or time is up."""

from __future__ import annotations

import itertools
import math
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar, cast

from genrank.errors import EngineError
from genrank.prompting.renderer import PreparedRequest, Prompt
from genrank.reasons.write import Reason
from genrank.types import (
    Claims,
    Request,
    Tokens,
)
from genrank.windows import (
    Interrupted,
    Ranked,
    Scores,
    Steps,
    Window,
)

T = TypeVar("T")

GRACE = 5.0
"""Seconds after a deadline that an engine has to give back what it finished; then it is left behind."""


class BatchClock:
    """What holds for a batch as a whole: when to stop, and whether the conversations go on."""

    def __init__(self, deadline: float | None, started: float, cancelled: threading.Event, *, keep: bool) -> None:
        self.ends = math.inf if deadline is None else started + deadline
        self.deadline = deadline
        self.cancelled = cancelled
        self.keep = keep

    def stop(self) -> bool:
        """Whether nothing further shall be computed."""
        return self.cancelled.is_set() or time.monotonic() >= self.ends

    def why(self) -> str:
        """Why it stopped."""
        return "cancelled" if self.cancelled.is_set() else f"the deadline of {self.deadline:g} s passed"

    def in_time(self, call: Callable[[], T]) -> T:
        """Run a call of the engine; leave it behind where it hangs until `GRACE` after the deadline.

        Raises:
            EngineError: When it hangs, or whatever the call raises.
        """
        if self.ends == math.inf:
            return call()
        answers: queue.SimpleQueue[tuple[T, None] | tuple[None, BaseException]] = queue.SimpleQueue()

        def work() -> None:
            try:
                answers.put((call(), None))
            except BaseException as error:  # it is raised in the caller's thread
                answers.put((None, error))

        threading.Thread(target=work, daemon=True, name="genrank-engine").start()
        try:
            left = max(0.0, self.ends - time.monotonic())
            answer, error = answers.get(timeout=min(left + GRACE, threading.TIMEOUT_MAX))
        except queue.Empty:
            raise EngineError(f"it did not answer within {GRACE:g} s of the deadline of {self.deadline:g} s") from None
        if error is not None:
            raise error
        return cast(T, answer)


class QueryState:
    """One query on its way through a batch."""

    def __init__(self, request: Request, steps: Steps, prepared: PreparedRequest) -> None:
        self.request = request
        self.prepared = prepared
        self.windows: list[Window] = next(steps)  # ready to be ranked; empty when done
        self.order: Sequence[int] = range(len(request.candidates))
        self.scores: Mapping[int, float] = {}
        self.why = ""
        self.ranked = 0  # windows, over all passes
        self.repairs: list[str] = []
        self.tokens = Tokens()
        self.cuts: Counter[str] = Counter()
        self.neutralised = 0
        self.taus: list[float] = []
        self.shown: dict[int, tuple[Window, Prompt]] = {}  # by place: the last window that held it, as it was shown
        self.reasons: dict[int, Reason] = {}
        self.claims = Claims()
        self._steps = steps

    def advance(self, scores: Sequence[Scores]) -> None:
        """Take the scores of the ready windows."""
        try:
            self.windows = self._steps.send(scores)
        except StopIteration as stop:
            self._finish(stop.value)

    def interrupt(self, why: str, finished: Mapping[int, Scores] = MappingProxyType({})) -> None:
        """Give up on the windows that are left, and keep what has been ranked: `finished` of those that were ready."""
        self.why = why
        try:
            self._steps.throw(Interrupted(finished))
        except StopIteration as stop:
            self._finish(stop.value)

    @property
    def unranked(self) -> list[int]:
        """Places that no finished window held, in the order in which they stand."""
        return [place for place in self.order if place not in self.scores]

    def order_unranked(self, scores: Sequence[float]) -> None:
        """Sort what no finished window held by ``[n]`` scores; ranked places, and equal scores, stay where they are."""
        by_score = iter(sorted(self.unranked, key=lambda place: -scores[place]))
        self.order = [place if place in self.scores else next(by_score) for place in self.order]

    def falling_scores(self) -> list[float]:
        """Scores in the ranking's order, never rising.

        A score that exceeds the one before it (from another window, read beside other candidates) is lowered to
        it. Where windows were never ranked, scores only say the place, ``(n - place) / n``.
        """
        n = len(self.order)
        if len(self.scores) < n:
            return [(n - i) / n for i in range(n)]
        return list(itertools.accumulate((self.scores[place] for place in self.order), min))

    def no_reason(self, place: int, why: str) -> None:
        """Say that a candidate has no reason."""
        self.repairs.append(f"no reason for {self.request.candidates[place].listing.listing_id}: {why}")

    def _finish(self, ranked: Ranked) -> None:
        self.windows = []
        self.order, self.scores = ranked.order, ranked.scores
