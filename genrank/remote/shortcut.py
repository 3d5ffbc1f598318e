"""A faster way to ask a server, left alone for a while after it fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)
_FIRST, _LONGEST = 30.0, 3600.0  # seconds until a shortcut is tried again: at first, and at most


class Shortcut:
    """A way to ask a server in fewer requests, beside a plain way that always works.

    After a failure the plain way is taken. One request tries the shortcut again after 30 s; each failure in a row
    doubles that, up to an hour. One that works for less than an hour and fails again counts as failing in a row.

    Args:
        name: For the log, such as ``one pass``.
        instead: What is done without it, such as ``a request a place``.
        clock: The time in seconds.

    Attributes:
        works: Whether it worked the last time.
        failures: How often it failed after it had worked.
    """

    def __init__(self, name: str, instead: str, *, clock: Callable[[], float] | None = None) -> None:
        self._name = name
        self._instead = instead
        self._clock = clock or time.monotonic
        self._pause = 0.0
        self._trying = True
        self._failed_at = self._again = float("-inf")
        self.works: bool = False
        self.failures: int = 0

    def __str__(self) -> str:
        return self._name if self.works else self._instead

    def take(self) -> bool:
        """Whether to ask this way now: it works, or it is time for one try."""
        if self.works:
            return True
        now = self._clock()
        if now < self._again:
            return False
        self._trying = True
        self._again = now + self._pause  # others do not try at the same time; one that is cut off is made again then
        return True

    def record(self, *, works: bool, why: str = "") -> None:
        """Record how a try ended; `why` says what failed, for the log."""
        lost, tried = self.works and not works, self._trying
        self.works, self._trying = works, False
        if works or not (lost or tried):  # of many at once, the first to fail counts
            return
        now = self._clock()
        row = now - self._failed_at < _LONGEST + self._pause
        self._pause = min(2 * self._pause, _LONGEST) if row and self._pause else _FIRST
        self._failed_at, self._again = now, now + self._pause
        if lost:
            self.failures += 1
            if self.failures == 1:
                _log.warning(
                    "the server failed at %r (%s); it is asked by %r, and the other way is tried again after %g s",
                    self._name, why, self._instead, self._pause,
                )  # fmt: skip
