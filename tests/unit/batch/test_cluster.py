from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from genrank.batch.cluster import RayWorker, RayWorkers, last_line
from genrank.batch.dialects import Requests
from genrank.batch.job import Job
from genrank.batch.pace import Pace
from genrank.batch.sources import open_source
from genrank.errors import EngineError, InputError
from tests.batch_rig import IDENTITY, Double, ids, names, run, write_lines

ROOT = Path(__file__).resolve().parents[3]


def test_an_actor_answers_the_rows_at_some_places(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", 5)
    worker = RayWorker(Double(), str(source), Requests, None, keep_fallbacks=False)
    rows = list(open_source(str(source)).rows())[1:3]
    places = json.dumps([(row.place.file, row.place.number, row.place.offset) for row in rows])
    found = worker({"places": [places]})
    assert found["key"] == ["id:q1", "id:q2"]
    assert [json.loads(line)["items"][0]["listing_id"] for line in found["line"]] == ["q1-2", "q2-2"]
    assert found["failed"] == found["engine_failed"] == [False, False]


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("-", {}, "IN: standard input cannot be read by several machines"),
        ("in.jsonl", {"workers": 0}, "--workers: must be at least 1, got 0"),
        ("in.jsonl", {"gpus": -1}, "--gpus-per-worker: must not be negative, got -1"),
    ],
)
def test_wrong_arguments_are_named(path: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RayWorkers(Double(), path, Requests, **options)


def test_of_a_traceback_the_line_is_said_that_tells_what_is_wrong() -> None:
    trace = "The actor died\n  File x, line 1\n    make()\ngenrank.errors.InputError: window: leave it out\n\n"
    assert last_line(RuntimeError(trace)) == "genrank.errors.InputError: window: leave it out"
    assert last_line(TimeoutError()) == "TimeoutError"


@pytest.mark.slow  # a local cluster takes half a minute to start, and minutes on a busy machine
@pytest.mark.timeout(1800)
def test_a_cluster_of_two_workers_of_which_one_is_killed_answers_every_row_once(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'genrank[ray]'")
    source, out, pids = write_lines(tmp_path / "in.jsonl", 100), tmp_path / "out.jsonl", tmp_path / "pids"
    pids.mkdir()
    run(write_lines(tmp_path / "in.jsonl", 8), out)  # begun without Ray
    write_lines(source, 100)
    call = [sys.executable, "-m", "tests.unit.batch.test_cluster", str(source), str(out), str(pids)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    ended = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:]
    counts = json.loads(ended.stdout.splitlines()[-1])
    assert counts == {"resumed": 8, "ranked": 92, "failed": 0, "killed": 1}
    assert len(list(pids.iterdir())) >= 3, "another worker took the place of the killed one"
    assert sorted(ids(out)) == sorted(names(100))


def _main(source: str, out: str, pids: str) -> Iterator[tuple[str, int]]:
    """Run a job on a local cluster, and kill a worker when the first answers are there."""
    killed = 0

    def report(_: Pace) -> None:
        nonlocal killed
        if not killed:
            os.kill(int(sorted(os.listdir(pids))[0]), signal.SIGKILL)  # noqa: PTH208
            killed += 1

    maker = Double(pause=0.02, pids=pids)
    init = {"object_store_memory": 100 << 20, "_node_ip_address": "127.0.0.1"}
    with (
        _cluster(lambda: RayWorkers(maker, source, Requests, workers=2, cpus=0.5, init=init)) as workers,
        Job(open_source(source), out, Requests(), IDENTITY) as job,
    ):
        pace = job.run(workers, batch=4, report=report)
    yield from (("resumed", pace.resumed), ("ranked", pace.ranked), ("failed", pace.failed), ("killed", killed))


def _cluster(start: Callable[[], RayWorkers]) -> RayWorkers:
    """Start a cluster; Ray gives up after 30 seconds, in which a busy machine does not always manage it."""
    for _ in range(5):
        with contextlib.suppress(EngineError):
            return start()
    return start()


if __name__ == "__main__":
    os.environ.setdefault("RAY_agent_register_timeout_ms", "300000")
    print(json.dumps(dict(_main(*sys.argv[1:]))))  # noqa: T201
