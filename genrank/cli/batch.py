"""``genrank batch``: a file of requests of any size ranked, resumable after a kill."""

from __future__ import annotations

import argparse
import contextlib
import functools
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from genrank.cli.console import quiet_libraries, say
from genrank.cli.ranker import add_ranker_options, settings_of
from genrank.data.jsonl import dump_line
from genrank.errors import InputError

if TYPE_CHECKING:
    from genrank.batch.dialects import Dialect
    from genrank.batch.job import Job
    from genrank.batch.pace import Pace
    from genrank.batch.settings import Settings
    from genrank.batch.workers import Stopping, Workers

_SAY_EVERY = 10.0  # seconds between lines where stderr is no terminal


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``genrank batch`` to the command line."""
    batch = commands.add_parser(
        "batch",
        help="rank a file of requests of any size; goes on after a kill",
        description="Rank the rows of JSON Lines or Parquet in constant memory. Run again after a kill, it goes on "
        "where it was: every row is answered exactly once. Rows that cannot be ranked go to OUT.failed.jsonl with the "
        "reason; the exit status is then 1.",
    )
    batch.add_argument(
        "input", metavar="IN", help="request lines or Parquet, a file or a folder; - reads lines from stdin"
    )
    batch.add_argument("out", metavar="OUT", help="file of ranking lines, or a folder named *.parquet")
    batch.add_argument(
        "--format",
        choices=("requests", "run-batch"),
        default="requests",
        help="run-batch reads and writes the lines of vLLM's run-batch, which OpenAI's API has too (%(default)s)",
    )
    batch.add_argument("--overwrite", action="store_true", help="begin again; removes OUT and OUT.failed.jsonl")
    batch.add_argument("--retry-failed", action="store_true", help="try the rows in OUT.failed.jsonl again")
    batch.add_argument(
        "--keep-fallbacks",
        action="store_true",
        help="take orders of the fallback or the first stage, where the model did not rank, for answers",
    )
    add_ranker_options(batch)
    batch.add_argument("--batch", type=int, default=16, metavar="N", help="requests ranked at once (%(default)s)")
    batch.add_argument("--ray", action="store_true", help="rank on a Ray cluster")
    batch.add_argument("--ray-address", metavar="A", help="the cluster: auto, or HOST:6379 (starts one here)")
    batch.add_argument("--workers", type=int, metavar="N", help="with --ray: models that are loaded (1)")
    batch.add_argument("--cpus-per-worker", type=float, metavar="N", help="with --ray: CPU cores of each (1)")
    batch.add_argument("--gpus-per-worker", type=float, metavar="N", help="with --ray: GPUs of each (0)")
    batch.set_defaults(command=_batch)


def _batch(arguments: argparse.Namespace) -> int:
    from genrank.batch.job import Job
    from genrank.batch.sources import open_source
    from genrank.batch.workers import Stopping

    _check(arguments)
    source = open_source(arguments.input)
    dialect = _dialect(arguments)
    settings = settings_of(arguments)
    quiet_libraries()
    identity = settings.identity() | {"reasons": str(arguments.reasons), "format": arguments.format}
    if arguments.top_k is not None:
        identity["top_k"] = str(arguments.top_k)
    stop = Stopping()
    with (
        Job(
            source,
            arguments.out,
            dialect(),
            identity,
            overwrite=arguments.overwrite,
            retry_failed=arguments.retry_failed,
        ) as job,
        _workers(arguments, settings, dialect) as workers,
        _signals(stop) as received,
    ):
        for note in job.notes:
            say(note)
        started = time.monotonic()
        pace = _run(job, workers, arguments.batch, stop)
        _summarise(arguments, pace, time.monotonic() - started, stopped=bool(received))
        if received:
            return 128 + received[0]
        return 1 if pace.failed else 0


def _check(arguments: argparse.Namespace) -> None:
    if arguments.batch < 1:
        raise InputError(f"must be at least 1, got {arguments.batch}", field="--batch")
    if not arguments.ray:
        for name in ("ray_address", "workers", "cpus_per_worker", "gpus_per_worker"):
            if getattr(arguments, name) is not None:
                raise InputError("is for Ray; add --ray, or leave it out", field=f"--{name.replace('_', '-')}")
    with contextlib.suppress(OSError):
        if Path(arguments.input).samefile(arguments.out):
            raise InputError("is also the input; name another file", field="OUT")
    if Path(arguments.out).absolute().is_relative_to(Path(arguments.input).absolute()):
        raise InputError("lies in the input's folder, and would be read as input; name another place", field="OUT")
    if arguments.format == "run-batch":
        if arguments.top_k is not None:
            raise InputError("run-batch has top_n in each body; leave it out", field="--top-k")
        if Path(arguments.out).suffix == ".parquet" or Path(arguments.input).suffix == ".parquet":
            raise InputError("run-batch is JSON Lines, in and out; name such files", field="--format")


def _dialect(arguments: argparse.Namespace) -> Callable[[], Dialect]:
    if arguments.format == "run-batch":
        from genrank.batch.run_batch import RunBatch

        return functools.partial(RunBatch, reasons=arguments.reasons)
    from genrank.batch.dialects import Requests

    return functools.partial(Requests, top_k=arguments.top_k, reasons=arguments.reasons)


@contextlib.contextmanager
def _workers(arguments: argparse.Namespace, settings: Settings, dialect: Callable[[], Dialect]) -> Iterator[Workers]:
    options: dict[str, Any] = {"deadline": arguments.deadline, "keep_fallbacks": arguments.keep_fallbacks}
    if not arguments.ray:
        from genrank.batch.workers import LocalWorkers

        with settings.make() as ranker:
            ranker.check_options(top_k=arguments.top_k, reasons=arguments.reasons, deadline=arguments.deadline)
            yield LocalWorkers(ranker, dialect(), **options)
        return
    from genrank.batch.cluster import RayWorkers

    with RayWorkers(
        settings,
        arguments.input,
        dialect,
        workers=1 if arguments.workers is None else arguments.workers,
        cpus=1 if arguments.cpus_per_worker is None else arguments.cpus_per_worker,
        gpus=0 if arguments.gpus_per_worker is None else arguments.gpus_per_worker,
        address=arguments.ray_address,
        **options,
    ) as workers:
        yield workers


@contextlib.contextmanager
def _signals(stop: Stopping) -> Iterator[list[int]]:
    """Stop the job on SIGINT and SIGTERM; a second signal ends the process at once.

    Yields:
        The signals that came.
    """
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _: FrameType | None) -> None:
        received.append(number)
        stop.ask()
        for one in before:
            signal.signal(one, signal.SIG_DFL)

    for number in before:
        signal.signal(number, ask)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(job: Job, workers: Workers, batch: int, stop: Stopping) -> Pace:
    """Run the job, with a bar on a terminal, and now and then a line elsewhere."""
    try:
        if not sys.stderr.isatty():
            raise ImportError
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
    except ImportError:  # a missing bar is no reason to fail
        return job.run(workers, batch=batch, report=_Lines(), stop=stop)
    columns = (BarColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def draw(pace: Pace) -> None:
            bar.update(task, completed=pace.rows, total=pace.total, description=str(pace))

        return job.run(workers, batch=batch, report=draw, stop=stop)


class _Lines:
    """Says the pace now and then."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def __call__(self, pace: Pace) -> None:
        if (now := time.monotonic()) >= self._said + _SAY_EVERY:
            self._said = now
            say(str(pace))


def _summarise(arguments: argparse.Namespace, pace: Pace, seconds: float, *, stopped: bool) -> None:
    """Counts as JSON on stdout, and what to do next on stderr."""
    counts = {
        "rows": pace.rows,
        "answered": pace.resumed + pace.ranked,
        "resumed": pace.resumed,
        "ranked": pace.ranked,
        "failed": pace.failed,
        "seconds": round(seconds, 3),
        "complete": not stopped,
    }
    if sys.stdout is not None:
        sys.stdout.write(dump_line(counts))
    say(f"{counts['answered']:,} answered, {pace.failed:,} failed")
    if pace.failed:
        say(f"the reasons are in {arguments.out}.failed.jsonl; --retry-failed tries these rows again")
    if stopped:
        say("stopped; run the same command again to go on")
