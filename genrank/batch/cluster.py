"""Ranks the rows of a job on a Ray cluster: actors of Ray Data, each with a ranker, which read the rows themselves.

What is sent to them are places; what comes back are finished lines, which the job writes and nobody else. So a row is
answered exactly once, whichever actor or machine dies, and a job may go on with or without Ray. Ray Data's own
checkpoints are not used: they know neither model nor prompt, count failed rows as done, keep all ids in memory, and are
gone after a run that succeeded.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

from genrank.batch.dialects import Dialect
from genrank.batch.settings import Maker
from genrank.batch.sources import Place, Row, open_source
from genrank.batch.workers import Outcome, Stopping, rank_rows
from genrank.engines.base import Closing
from genrank.errors import EngineError, InputError, MissingExtraError

_BLOCKS = 20_000  # that Ray is given at most
_BLOCK_BYTES = 1 << 16  # of finished lines that are sent back at once
_LOOK = 0.2  # seconds between looks at the stop


class RayWorkers(Closing):
    """Rankers on a Ray cluster.

    Args:
        maker: Makes each actor's ranker; it is sent there.
        path: The job's input, which every machine reads under this path.
        dialect: Makes the rows' format; it is sent too.
        workers: How many actors.
        cpus: CPU cores of each.
        gpus: GPUs of each; a fraction shares one.
        address: The cluster, such as ``auto`` or ``HOST:6379``; None starts one on this machine.
        deadline: See `genrank.Reranker.rerank_batch`.
        keep_fallbacks: See `genrank.batch.workers.LocalWorkers`.
        init: Further arguments of ``ray.init``.

    Raises:
        InputError: When an argument is wrong.
        MissingExtraError: When Ray is not installed.
        EngineError: When there is no such cluster.
    """

    def __init__(
        self,
        maker: Maker,
        path: str,
        dialect: Callable[[], Dialect],
        *,
        workers: int = 1,
        cpus: float = 1,
        gpus: float = 0,
        address: str | None = None,
        deadline: float | None = None,
        keep_fallbacks: bool = False,
        init: Mapping[str, Any] | None = None,
    ) -> None:
        if path == "-":
            raise InputError("standard input cannot be read by several machines; name a file", field="IN")
        for name, number, least in (("--workers", workers, 1), ("--cpus-per-worker", cpus, 0)):
            if number < least:
                raise InputError(f"must be at least {least}, got {number}", field=name)
        if gpus < 0:
            raise InputError(f"must not be negative, got {gpus}", field="--gpus-per-worker")
        try:
            import ray
            import ray.data
        except ImportError:
            raise MissingExtraError("ray", "ray") from None
        self._ray: Any = ray
        self._made: dict[str, Any] = {
            "maker": maker,
            "path": os.path.abspath(path),  # noqa: PTH100 - links stay as they are
            "dialect": dialect,
            "deadline": deadline,
            "keep_fallbacks": keep_fallbacks,
        }
        self._pool = {"workers": workers, "cpus": cpus, "gpus": gpus}
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if address is None:  # one core more, since something must hand out the rows
            options |= {"num_cpus": math.ceil(workers * cpus) + 1, "include_dashboard": False}
        try:
            ray.init(address=address, **(options | dict(init or {})))
        except Exception as error:  # Ray raises all kinds, Exception itself too
            raise EngineError(f"Ray: {last_line(error)}; check --ray-address") from None

    def rank(self, chunks: Iterator[list[Row]], stop: Stopping) -> Generator[list[Outcome], None, None]:
        """See `genrank.batch.workers.Workers`. Takes all chunks first: of each row its place is kept in memory."""
        pieces = []
        for rows in chunks:
            if stop.asked:
                return
            pieces.append(
                {"places": json.dumps([(row.place.file, row.place.number, row.place.offset) for row in rows])}
            )
        if not pieces:
            return
        found: queue.Queue[Any] = queue.Queue(maxsize=8)
        threading.Thread(target=self._run, args=(pieces, found, stop), daemon=True, name="genrank-ray").start()
        while True:
            try:
                item = found.get(timeout=_LOOK)
            except queue.Empty:
                if stop.asked:
                    return
                continue
            if isinstance(item, Exception):
                raise EngineError(f"Ray: {last_line(item)}") from None
            if item is None:
                return
            yield [Outcome(key, json.loads(line), failed, blame) for key, line, failed, blame in item]

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        self._ray.shutdown()

    def _run(self, pieces: list[dict[str, str]], found: queue.Queue[Any], stop: Stopping) -> None:
        """Put the outcomes into a queue, then None, or the error that ended it."""
        try:
            for batch in self._dataset(pieces).iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
                if stop.asked:
                    return
                columns = (batch[name].tolist() for name in ("key", "line", "failed", "engine_failed"))
                found.put(list(zip(*columns, strict=True)))
            found.put(None)
        except Exception as error:
            found.put(error)

    def _dataset(self, pieces: list[dict[str, str]]) -> Any:
        data = self._ray.data
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are raised, and said once
        context.target_max_block_size = _BLOCK_BYTES  # so that finished lines come back soon
        rows = data.from_items(pieces, override_num_blocks=min(len(pieces), _BLOCKS))
        return rows.map_batches(
            RayWorker,
            fn_constructor_kwargs=self._made,
            batch_size=1,
            batch_format="numpy",
            compute=data.ActorPoolStrategy(size=self._pool["workers"]),
            num_cpus=self._pool["cpus"],
            num_gpus=self._pool["gpus"] or None,
        )


def last_line(error: Exception) -> str:
    """The last line of an error: of a whole traceback, as Ray raises, the line that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:1000] if lines else type(error).__name__


class RayWorker:
    """An actor: reads the rows at some places, and ranks them. See `RayWorkers`."""

    def __init__(
        self, maker: Maker, path: str, dialect: Callable[[], Dialect], deadline: float | None, *, keep_fallbacks: bool
    ) -> None:
        self._ranker = maker.make()
        self._source = open_source(path)
        self._dialect = dialect()
        self._deadline = deadline
        self._keep_fallbacks = keep_fallbacks

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """The outcomes of a chunk, as columns."""
        places = [Place(*place) for piece in batch["places"] for place in json.loads(piece)]
        rows = self._source.read(places)
        outcomes = asyncio.run(
            rank_rows(self._ranker, self._dialect, rows, deadline=self._deadline, keep_fallbacks=self._keep_fallbacks)
        )
        return {
            "key": [one.key for one in outcomes],
            "line": [json.dumps(one.line, default=str) for one in outcomes],
            "failed": [one.failed for one in outcomes],
            "engine_failed": [one.engine_failed for one in outcomes],
        }
