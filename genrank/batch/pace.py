"""How fast a job is, and how long it will take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

_SECONDS = 120.0  # over which the rate is taken


class Pace:
    """Counts rows, and estimates the time left from the last two minutes.

    Args:
        total: Rows in all; None when unknown.
        clock: Seconds.

    Attributes:
        resumed: Rows that earlier runs had answered.
        ranked: Rows answered in this run.
        failed: Rows without an answer, of earlier runs too.
        seconds: Since the start, until the last `add`.
    """

    def __init__(self, total: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self.resumed = self.ranked = self.failed = 0
        self.seconds = 0.0
        self._clock = clock
        self._started = clock()
        self._last: deque[tuple[float, int]] = deque([(self._started, 0)])

    @property
    def rows(self) -> int:
        """Rows that are settled."""
        return self.resumed + self.ranked + self.failed

    @property
    def rate(self) -> float:
        """Rows ranked in a second; 0 when nothing is known yet."""
        (since, before), (now, ranked) = self._last[0], self._last[-1]
        return (ranked - before) / (now - since) if now > since else 0.0

    @property
    def left(self) -> float | None:
        """Seconds until the end; None when they cannot be known."""
        if self.total is None or not self.rate:
            return None
        return max(0, self.total - self.rows) / self.rate

    def add(self, *, resumed: int = 0, ranked: int = 0, failed: int = 0) -> None:
        """Count rows."""
        self.resumed += resumed
        self.ranked += ranked
        self.failed += failed
        now = self._clock()
        self.seconds = now - self._started
        if ranked:
            self._last.append((now, self.ranked))
            while len(self._last) > 2 and self._last[1][0] < now - _SECONDS:
                self._last.popleft()

    def __str__(self) -> str:
        said = [f"{self.rows:,} rows" if self.total is None else f"{self.rows:,} of {self.total:,} rows"]
        said += [f"{self.failed:,} failed"] if self.failed else []
        said += [f"{self.rate:.3g} rows/s"] if self.rate else []
        said += [f"{duration(self.left)} left"] if self.left is not None else []
        return ", ".join(said)


def duration(seconds: float) -> str:
    """Seconds for people, such as ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes < 10 and rest else f"{minutes} min"
    return f"{minutes // 60:,} h {minutes % 60} min"
