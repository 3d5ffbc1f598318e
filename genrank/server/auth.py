"""Who may call, and how often: bearer keys, compared in constant time, and a rate limit for each key."""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections.abc import Sequence

import limits
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

ANYONE = "anyone"
"""The id of a caller where there are no keys."""


class Keys:
    """The keys that may call; only their digests are kept.

    Args:
        keys: None at all lets everyone in.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def caller(self, authorization: str | None) -> str | None:
        """Who sent a request.

        Args:
            authorization: The header, ``Bearer KEY``; some clients send the key alone.

        Returns:
            The caller's id for logs, from which the key cannot be read; None for an unknown or missing key.
        """
        if not self._digests:
            return ANYONE
        scheme, _, token = (authorization or "").strip().partition(" ")
        key = token.strip() if scheme.lower() == "bearer" else (authorization or "").strip()
        given = _digest(key)
        found = [hmac.compare_digest(given, known) for known in self._digests]  # all of them, whichever fits
        return given.hex()[:8] if any(found) else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


class RateLimit:
    """Counts each caller's requests in a moving window, in this process.

    Args:
        rate: Such as ``600/minute``; None for no limit.
    """

    def __init__(self, rate: str | None) -> None:
        self._rate = limits.parse(rate) if rate else None
        self._limiter = MovingWindowRateLimiter(MemoryStorage()) if rate else None

    def wait(self, caller: str) -> int:
        """Count a request; 0 when it may go on, else the whole seconds to wait before the next one."""
        if self._limiter is None or self._rate is None or self._limiter.hit(self._rate, caller):
            return 0
        return max(1, math.ceil(self._limiter.get_window_stats(self._rate, caller).reset_time - time.time()))
