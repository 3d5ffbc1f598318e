"""A circuit breaker: leaves an engine alone that keeps failing, and tries it again after a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

State = Literal["closed", "open", "half-open"]


class Breaker:
    """Opens after failures in a row; then, after a pause, lets one try through at a time until one succeeds.

    Args:
        failures: How many in a row.
        cool_down: Seconds of the pause.
        clock: The time in seconds.
    """

    def __init__(self, failures: int, cool_down: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = failures
        self._cool_down = cool_down
        self._clock = clock
        self._failed = 0
        self._opened = 0.0
        self._trying = False

    @property
    def state(self) -> State:
        """``closed`` lets everything through, ``open`` nothing, ``half-open`` one try."""
        if self._failed < self._most:
            return "closed"
        return "half-open" if self._clock() >= self._opened + self._cool_down else "open"

    def admits(self) -> bool:
        """Whether the engine may be asked. In ``half-open`` that is a try, which `record` or `give_up` ends."""
        state = self.state
        if state == "closed":
            return True
        if state == "open" or self._trying:
            return False
        self._trying = True
        return True

    def record(self, *, failed: bool) -> None:
        """Record how a call of the engine ended."""
        self._trying = False
        self._failed = self._failed + 1 if failed else 0
        if failed:
            self._opened = self._clock()

    def give_up(self) -> None:
        """End a try that tells nothing about the engine: its client has gone, or its request was wrong."""
        self._trying = False
