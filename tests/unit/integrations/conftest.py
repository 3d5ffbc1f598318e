from __future__ import annotations

import threading
from collections.abc import Sequence

from genrank.engines.base import ScoreRequest, ScoreResult, Stop, never
from genrank.testing import OracleEngine

GRADES = {"dress": 3, "hat": 1, "coat": -2}

HISTORY = [{"event": "click", "listing": {"listing_id": "h", "title": "Green scarf"}}]


class MeetingEngine(OracleEngine):
    """Answers only when two calls wait for it at the same time."""

    def __init__(self) -> None:
        super().__init__(GRADES)
        self._both = threading.Barrier(2, timeout=60)

    def score(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
        self._both.wait()
        return super().score(requests, stop=stop)


def prompts(engine: OracleEngine) -> list[str]:
    """What the model was shown, candidate by candidate."""
    return [engine.tokenizer.decode(one.ids) for one in engine.requests if isinstance(one, ScoreRequest)]
