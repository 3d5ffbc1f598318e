"""Ranks rows in this process: several queries at once, the next ones ready, the last ones written meanwhile."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from genrank.background import end_loop, start_loop
from genrank.batch.dialects import Asked, Dialect, key
from genrank.batch.sources import Row
from genrank.cascade import Cascade
from genrank.errors import DataFormatError, GenrankError, InputError
from genrank.reranker import Reranker
from genrank.types import Ranking

Ranker = Reranker | Cascade

GRACE = 5.0
"""Seconds that running batches have after a signal; then they are dropped."""

_AWAITED = 8  # batches at once, for an engine that can be awaited
_LOOK = 0.2  # seconds between looks at the stop


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a row.

    Attributes:
        key: The row's key.
        line: What to write.
        failed: Whether it is a failure.
        engine_failed: Whether the engine is to blame, not the row.
    """

    key: str
    line: dict[str, Any]
    failed: bool = False
    engine_failed: bool = False


class Stopping:
    """Whether a job is to stop, asked by a signal's handler.

    Attributes:
        asked: Whether it is.
    """

    def __init__(self, grace: float = GRACE) -> None:
        self.asked = False
        self._grace = grace
        self._ends = 0.0

    def ask(self) -> None:
        """Start no new batch; drop running ones after `GRACE` seconds."""
        if not self.asked:
            self._ends = time.monotonic() + self._grace
            self.asked = True

    @property
    def overdue(self) -> bool:
        """Whether running batches are to be dropped."""
        return self.asked and time.monotonic() >= self._ends


class Workers(Protocol):
    """Ranks the rows of a job."""

    def rank(self, chunks: Iterator[list[Row]], stop: Stopping) -> Generator[list[Outcome], None, None]:
        """Rank chunks of rows.

        Args:
            chunks: Taken as they are needed, in the caller's thread.
            stop: When it is asked, no further chunk is taken.

        Yields:
            The outcomes of some rows, in any order, each once.

        Raises:
            GenrankError: When nothing can be ranked at all.
        """


class LocalWorkers:
    """One ranker in this process.

    Args:
        ranker: Ranks.
        dialect: The rows' format.
        deadline: See `genrank.Reranker.rerank_batch`; of each chunk.
        keep_fallbacks: Whether a ranking that the model did not make, or not alone, is an answer and not a failure.
    """

    def __init__(
        self, ranker: Ranker, dialect: Dialect, *, deadline: float | None = None, keep_fallbacks: bool = False
    ) -> None:
        first = ranker.first if isinstance(ranker, Cascade) else ranker
        self._at_once = _AWAITED if hasattr(first.engine, "ascore") else 1
        self._work: Callable[[Sequence[Row]], Awaitable[list[Outcome]]] = lambda rows: rank_rows(
            ranker, dialect, rows, deadline=deadline, keep_fallbacks=keep_fallbacks
        )

    def rank(self, chunks: Iterator[list[Row]], stop: Stopping) -> Generator[list[Outcome], None, None]:
        """See `Workers`; outcomes come in the rows' order."""
        loop, thread = start_loop("genrank-batch")
        free = asyncio.Semaphore(self._at_once)

        async def work(rows: Sequence[Row]) -> list[Outcome]:
            async with free:
                return await self._work(rows)

        given: deque[concurrent.futures.Future[list[Outcome]]] = deque()
        try:
            while True:
                while not stop.asked and len(given) <= self._at_once:  # one more than run: the engine never waits
                    rows = next(chunks, None)
                    if rows is None:
                        break
                    given.append(asyncio.run_coroutine_threadsafe(work(rows), loop))
                while stop.asked and len(given) > self._at_once:
                    given.pop().cancel()
                if not given:
                    return
                if not self._is_done(given[0], stop):
                    if stop.overdue:
                        return
                    continue  # it was asked to stop just now
                yield given.popleft().result()
        finally:
            for future in given:
                future.cancel()
            end_loop(loop, thread)

    @staticmethod
    def _is_done(future: concurrent.futures.Future[list[Outcome]], stop: Stopping) -> bool:
        """Wait until a chunk is ranked; False when the job is asked to stop meanwhile."""
        was_asked = stop.asked
        while not concurrent.futures.wait([future], _LOOK).done:
            if stop.asked != was_asked or stop.overdue:
                return False
        return True


async def rank_rows(
    ranker: Ranker,
    dialect: Dialect,
    rows: Sequence[Row],
    *,
    deadline: float | None = None,
    keep_fallbacks: bool = False,
) -> list[Outcome]:
    """Rank rows as one batch; one that cannot be ranked does not affect the others.

    Returns:
        ``[rows]`` outcomes, in the rows' order.

    Raises:
        GenrankError: When the ranker is closed.
    """
    found: dict[int, Outcome] = {}
    groups: dict[tuple[int | None, int], list[tuple[int, Asked]]] = {}
    for i, row in enumerate(rows):
        try:
            asked = dialect.read(row)
        except (InputError, DataFormatError) as error:
            found[i] = failure(dialect, row, str(error))
            continue
        if asked.request is None:
            found[i] = Outcome(_key(dialect, row), dialect.answer(row, asked, None))
        else:
            groups.setdefault((asked.top_k, asked.reasons), []).append((i, asked))
    for (top_k, reasons), some in groups.items():
        options: dict[str, Any] = {"top_k": top_k, "reasons": reasons, "deadline": deadline}
        rankings = await _rank(ranker, [asked for _, asked in some], options)
        for (i, asked), ranking in zip(some, rankings, strict=True):
            found[i] = _outcome(dialect, rows[i], asked, ranking, keep_fallbacks=keep_fallbacks)
    return [found[i] for i in range(len(rows))]


def failure(dialect: Dialect, row: Row, reason: str, *, engine_failed: bool = False) -> Outcome:
    """The outcome of a row that has no answer."""
    return Outcome(_key(dialect, row), dialect.failure(row, reason), failed=True, engine_failed=engine_failed)


def _key(dialect: Dialect, row: Row) -> str:
    return key(dialect.row_id(row), row.label)


async def _rank(ranker: Ranker, asked: Sequence[Asked], options: dict[str, Any]) -> list[Ranking | Exception]:
    requests = [one.request for one in asked if one.request is not None]
    try:
        return [*await ranker.arerank_batch(requests, **options)]
    except Exception as error:  # one row must not cost the others their answers, nor end a job of millions
        if isinstance(error, GenrankError) and not isinstance(error, InputError):
            raise
        if len(requests) == 1:
            return [error]
    return [found for one in asked for found in await _rank(ranker, [one], options)]


def _outcome(
    dialect: Dialect, row: Row, asked: Asked, ranking: Ranking | Exception, *, keep_fallbacks: bool
) -> Outcome:
    if isinstance(ranking, InputError):
        return failure(dialect, row, str(ranking))
    if isinstance(ranking, Exception):
        return failure(dialect, row, f"{type(ranking).__name__}: {ranking}", engine_failed=True)
    made_by = ranking.provenance
    if made_by.outcome == "fallback" and not keep_fallbacks:
        return failure(dialect, row, made_by.why, engine_failed=made_by.cause == "engine-error")
    return Outcome(_key(dialect, row), dialect.answer(row, asked, ranking))
