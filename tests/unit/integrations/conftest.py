from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from genrank.engines.base import ScoreRequest, ScoreResult, Stop, never
from genrank.integrations import placing
from genrank.reranker import Reranker
from genrank.testing import OracleEngine

PAGE = Path(__file__).resolve().parents[3] / "docs/integrations.md"

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


@pytest.fixture
def oracle_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let options that name a model open a reranker that knows the grades."""

    class Opened(Reranker):
        def __init__(self, model: str) -> None:
            super().__init__(engine=OracleEngine(GRADES))

    monkeypatch.setattr(placing, "Reranker", Opened)


def prompts(engine: OracleEngine) -> list[str]:
    """What the model was shown, candidate by candidate."""
    return [engine.tokenizer.decode(one.ids) for one in engine.requests if isinstance(one, ScoreRequest)]


def run_page(heading: str, **names: Any) -> dict[str, Any]:
    """Run the Python block below a heading of the page; returns its names."""
    code = PAGE.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("```python\n")[1].split("```")[0]
    exec(compile(code, str(PAGE), "exec"), names)
    return names
