"""For the tests of batch jobs: rows, and rankers without a model that other processes can make too."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrank.batch.dialects import Requests
from genrank.batch.job import Job
from genrank.batch.pace import Pace
from genrank.batch.sources import open_source
from genrank.batch.workers import LocalWorkers
from genrank.data.jsonl import write_jsonl
from genrank.engines.base import ScoreRequest, ScoreResult, Stop, never
from genrank.reranker import Reranker
from genrank.testing import AnyRequest, OracleEngine, ScriptedAnswer

IDENTITY = {"model": "double", "prompt": "p"}


def line(number: int, **change: Any) -> dict[str, Any]:
    """A request line with three candidates, of which the last is the best one."""
    candidates = [{"listing_id": f"q{number}-{i}", "title": f"Dress {i} of {number}"} for i in range(3)]
    return {"query_id": f"q{number}", "query": f"dress {number}", "candidates": candidates} | change


def write_lines(path: Path, count: int) -> Path:
    """A file of request lines."""
    write_jsonl(path, (line(number) for number in range(count)))
    return path


class LastIsBest(OracleEngine):
    """Ranks the last of three candidates first; each call takes some seconds a request."""

    def __init__(self, pause: float = 0.0) -> None:
        super().__init__({})
        self._pause = pause
        self._answer_to = _last_is_best

    def score(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
        ends = time.monotonic() + self._pause * len(requests)
        while self._pause and time.monotonic() < ends and not stop():
            time.sleep(0.005)
        return super().score(requests, stop=stop)


def _last_is_best(request: AnyRequest) -> ScriptedAnswer:
    if not isinstance(request, ScoreRequest):
        raise TypeError(request)
    return [[float(request.listing_ids[0][-1]), *[0.0] * (len(request.targets) - 1)]]


@dataclass(frozen=True)
class Double:
    """Makes a ranker without a model; in another process too."""

    pause: float = 0.0
    pids: str = ""  # a folder that gets a file for each process

    def make(self) -> Reranker:
        """See `genrank.batch.settings.Maker`."""
        if self.pids:
            (Path(self.pids) / str(os.getpid())).touch()
        return Reranker(engine=LastIsBest(self.pause), decoding="pointwise")


def run(source: Path, out: Path, *, batch: int = 4, pause: float = 0.0, **options: Any) -> Pace:
    """Run a job to its end."""
    with (
        Job(open_source(str(source)), out, Requests(), IDENTITY, **options) as job,
        Double(pause).make() as ranker,
    ):
        return job.run(LocalWorkers(ranker, Requests()), batch=batch)


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file."""
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


def ids(path: Path) -> list[str]:
    """The query ids of written lines, in their order."""
    return [fields["query_id"] for fields in read(path)]


def names(count: int) -> Iterator[str]:
    """The ids of `write_lines`."""
    return (f"q{number}" for number in range(count))


if __name__ == "__main__":  # a process that a test kills: SOURCE OUT PAUSE
    run(Path(sys.argv[1]), Path(sys.argv[2]), pause=float(sys.argv[3]))
