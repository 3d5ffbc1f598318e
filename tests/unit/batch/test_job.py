from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrank.batch.dialects import Requests
from genrank.batch.job import Job
from genrank.batch.pace import Pace
from genrank.batch.sources import Row, open_source
from genrank.batch.workers import LocalWorkers, Outcome, Stopping
from genrank.data.jsonl import write_jsonl
from genrank.errors import ConfigError, EngineError, InputError
from genrank.reranker import Reranker
from genrank.testing import ScriptedEngine
from tests.batch_rig import IDENTITY, Double, ids, line, names, read, run, write_lines

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ten rows and their answers."""
    folder = tmp_path_factory.mktemp("job")
    run(write_lines(folder / "in.jsonl", 10), folder / "out.jsonl")
    return folder


def _open(source: Path, out: Path, identity: dict[str, str] = IDENTITY, **options: Any) -> Job:
    return Job(open_source(str(source)), out, Requests(), identity, **options)


def test_every_row_is_answered_once_in_the_inputs_order(finished: Path) -> None:
    assert ids(finished / "out.jsonl") == list(names(10))
    first = read(finished / "out.jsonl")[0]
    assert [item["listing_id"] for item in first["items"]] == ["q0-2", "q0-1", "q0-0"]
    shown = {file.name for file in finished.iterdir() if not file.name.startswith(".")}
    assert shown == {"in.jsonl", "out.jsonl", "out.jsonl.batch.json"}


@settings(max_examples=25)  # each loads a ranker
@given(st.floats(0, 1))
def test_a_job_killed_at_any_byte_goes_on_to_exactly_the_rows(finished: Path, part: float) -> None:
    out = finished / "out.jsonl"
    written = out.read_bytes()
    size = int(part * len(written))
    out.write_bytes(written[:size])
    pace = run(finished / "in.jsonl", out)
    assert pace.resumed == written[:size].count(b"\n")
    assert pace.ranked == 10 - pace.resumed
    assert ids(out) == list(names(10))


@pytest.mark.timeout(1200)  # seconds, but for a busy machine
def test_a_process_killed_three_times_answers_every_row_once(tmp_path: Path) -> None:
    source, out = write_lines(tmp_path / "in.jsonl", 40), tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "tests.batch_rig", str(source), str(out), "0.02"]
    for kill in range(3):
        process = subprocess.Popen(command, cwd=ROOT)
        deadline = time.monotonic() + 250
        while not (out.exists() and out.read_bytes().count(b"\n") > kill * 8) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it was killed on the way"
    assert 0 < len(ids(out)) < 40
    run(source, out)
    assert ids(out) == list(names(40))


def test_what_cannot_be_ranked_stands_apart_with_its_reason(tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    good, bad = json.dumps(line(0)), json.dumps(line(1, candidates=[]))
    source.write_text("\n".join([good, bad, "{", json.dumps(line(0, query="other")), json.dumps(line(2))]))
    for _ in range(2):  # a second run adds nothing
        pace = run(source, out)
        assert (pace.resumed + pace.ranked, pace.failed) == (2, 3)
        assert ids(out) == ["q0", "q2"]
        lines = read(tmp_path / "out.jsonl.failed.jsonl")
        assert sorted(fields["row"] for fields in lines) == ["in.jsonl:2", "in.jsonl:3", "in.jsonl:4"]
        failed = {fields["row"]: (fields["query_id"], fields["reason"]) for fields in lines}
        assert failed["in.jsonl:2"][0] == "q1"
        assert "no candidates to rank" in failed["in.jsonl:2"][1]
        assert "expected one JSON object" in failed["in.jsonl:3"][1]
        assert failed["in.jsonl:4"] == ("q0", "the id 'q0' is already that of an earlier row; give each its own")


def test_repaired_rows_are_tried_again(tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_jsonl(source, [line(0), line(1, candidates=[])])
    assert run(source, out).failed == 1
    write_jsonl(source, [line(0), line(1)])
    assert run(source, out, retry_failed=True).failed == 0
    assert ids(out) == ["q0", "q1"]
    assert not (tmp_path / "out.jsonl.failed.jsonl").exists()


def test_an_output_is_bound_to_what_made_it(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    source = write_lines(tmp_path / "in.jsonl", 2)
    run(source, out)
    before = out.read_bytes()
    with pytest.raises(ConfigError, match=r"begun with another prompt \(prompt: p -> q\).*--overwrite"):
        _open(source, out, IDENTITY | {"prompt": "q"})
    assert out.read_bytes() == before
    with _open(source, out, IDENTITY | {"prompt": "q"}, overwrite=True):
        assert out.read_bytes() == b""
    other = tmp_path / "notes.jsonl"
    other.write_text("mine")
    with pytest.raises(InputError, match="is not the output of genrank batch"):
        _open(source, other)
    assert other.read_text() == "mine"


def test_two_jobs_do_not_write_one_output(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", 2)
    with _open(source, tmp_path / "out.jsonl"), pytest.raises(InputError, match="another process writes"):
        _open(source, tmp_path / "out.jsonl")
    with _open(source, tmp_path / "out.jsonl"):
        pass


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("missing/out.jsonl", "there is no folder"),
        ("folder", "is a folder; OUT is a file of JSON Lines, or a folder whose name ends with .parquet"),
        ("file.parquet", "is a file; OUT is"),
    ],
)
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, out: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.parquet").touch()
    with pytest.raises(InputError, match=message):
        _open(write_lines(tmp_path / "in.jsonl", 1), tmp_path / out)


def test_a_longer_input_is_gone_on_with(tmp_path: Path) -> None:
    source, out = write_lines(tmp_path / "in.jsonl", 2), tmp_path / "out.jsonl"
    run(source, out)
    write_lines(source, 3)
    with _open(source, out) as job:
        assert job.notes == ["the input has changed: rows whose ids were answered before keep their answers"]
    pace = run(source, out)
    assert (pace.resumed, pace.ranked) == (2, 1)


def test_rows_without_ids_hold_as_long_as_the_input_is_the_same(tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_jsonl(source, [line(number, query_id=None) for number in range(3)])
    run(source, out)
    assert [fields["row"] for fields in read(out)] == ["in.jsonl:1", "in.jsonl:2", "in.jsonl:3"]
    assert run(source, out).resumed == 3
    write_jsonl(source, [line(number, query_id=None) for number in range(4)])
    with pytest.raises(ConfigError, match="the input has changed"):
        _open(source, out)


def test_an_engine_that_fails_on_everything_ends_the_job(tmp_path: Path) -> None:
    source, out = write_lines(tmp_path / "in.jsonl", 40), tmp_path / "out.jsonl"
    broken = Reranker(engine=ScriptedEngine(lambda _: EngineError("no memory")), decoding="pointwise")
    with (
        _open(source, out) as job,
        pytest.raises(EngineError, match=r"every row of 3 batches.*no memory.*--retry-failed"),
    ):
        job.run(LocalWorkers(broken, Requests()), batch=4)
    assert ids(out) == []
    assert len(read(tmp_path / "out.jsonl.failed.jsonl")) == 12
    assert run(source, out, retry_failed=True).ranked == 40


def test_a_job_that_is_asked_to_stop_goes_on_later(tmp_path: Path) -> None:
    source, out = write_lines(tmp_path / "in.jsonl", 40), tmp_path / "out.jsonl"
    stop = Stopping()
    with _open(source, out) as job, Double().make() as ranker:
        pace = job.run(LocalWorkers(ranker, Requests()), batch=4, stop=stop, report=lambda _: stop.ask())
    assert 4 <= pace.rows < 40
    assert len(ids(out)) == pace.ranked
    assert run(source, out).resumed == pace.ranked
    assert ids(out) == list(names(40))


def test_few_rows_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(str(write_lines(tmp_path / "in.jsonl", 100)))
    read_rows, all_rows = 0, source.rows

    def counted() -> Iterator[Any]:
        nonlocal read_rows
        for row in all_rows():
            read_rows += 1
            yield row

    monkeypatch.setattr(source, "rows", counted)
    ahead = []

    def report(pace: Pace) -> None:
        ahead.append(read_rows - pace.rows)

    with Job(source, tmp_path / "out.jsonl", Requests(), IDENTITY) as job, Double().make() as ranker:
        job.run(LocalWorkers(ranker, Requests()), batch=5, report=report)
    assert len(ahead) == 20
    assert max(ahead) <= 2 * 5


def test_parquet_in_and_out(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    import pyarrow.parquet as pq

    rows = [line(number) for number in range(20)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    out = tmp_path / "out.parquet"
    stop = Stopping()
    with _open(tmp_path / "in.parquet", out) as job, Double().make() as ranker:
        job.run(LocalWorkers(ranker, Requests()), batch=4, stop=stop, report=lambda _: stop.ask())
    assert run(tmp_path / "in.parquet", out).resumed >= 4
    table = pq.read_table(out)
    assert table["query_id"].to_pylist() == list(names(20))
    assert os.listdir(out) == ["part-000000.parquet"]  # noqa: PTH208


class _Twice:
    """Workers of which each chunk comes back twice, the last chunk first, as when a machine dies after its work."""

    def __init__(self, ranker: Reranker) -> None:
        self._inner = LocalWorkers(ranker, Requests())

    def rank(self, chunks: Iterator[list[Row]], stop: Stopping) -> Generator[list[Outcome], None, None]:
        found = list(self._inner.rank(chunks, stop))
        yield from found[::-1]
        yield from found


def test_an_answer_that_comes_twice_is_written_once(tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_jsonl(source, [*(line(number) for number in range(10)), line(10, candidates=[])])
    with _open(source, out) as job, Double().make() as ranker:
        pace = job.run(_Twice(ranker), batch=4)
    assert (pace.ranked, pace.failed) == (10, 1)
    assert sorted(ids(out)) == sorted(names(10))
    assert len(read(tmp_path / "out.jsonl.failed.jsonl")) == 1
