from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest

from genrank.errors import EngineError, InputError
from genrank.server.batching import Batcher, ModelThread, Options, QueueFullError
from genrank.server.config import BatchingConfig
from genrank.types import Candidate, Listing, Provenance, Query, Ranking, Request


def request(name: str) -> Request:
    return Request(Query(name, query_id=name), (Candidate(Listing("a", "A")),))


class Recorder:
    """Ranks nothing, and remembers the batches."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.batches: list[list[str]] = []
        self.ends: list[float] = []
        self.stopped = 0

    async def __call__(self, requests: Sequence[Request], options: Options, ends: float) -> list[Ranking]:
        names = [one.query.text for one in requests]
        self.batches.append(names)
        self.ends.append(ends)
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        if "wrong" in names:
            raise InputError("no", field="candidates[0]")
        if "broken" in names:
            raise RuntimeError("no")
        return [Ranking(name, ()) for name in names]


def test_what_arrives_together_is_one_batch() -> None:
    rank = Recorder()

    async def run() -> list[Ranking]:
        batcher = Batcher(rank, BatchingConfig(size=3))
        asked = [batcher.submit(request(str(i)), Options(), 10.0 - i) for i in range(4)]
        other = batcher.submit(request("other"), Options(reasons=1), 20.0)
        return await asyncio.gather(*asked, other)

    assert [ranking.query_id for ranking in asyncio.run(run())] == ["0", "1", "2", "3", "other"]
    assert rank.batches == [["0", "1", "2"], ["3"], ["other"]]
    assert rank.ends == [10.0, 7.0, 20.0], "the latest of each batch"


@pytest.mark.parametrize(("concurrency", "batches"), [(1, [["0", "1"]]), (2, [["0"], ["1"]])])
def test_only_where_batches_take_turns_does_one_wait_for_more(concurrency: int, batches: list[list[str]]) -> None:
    rank = Recorder(0.05)

    async def run() -> None:
        batcher = Batcher(rank, BatchingConfig(), concurrency=concurrency)
        first = asyncio.ensure_future(batcher.submit(request("0"), Options(), 10.0))
        for _ in range(3):  # rounds of the loop, which take no time
            await asyncio.sleep(0)
        await asyncio.gather(first, batcher.submit(request("1"), Options(), 10.0))

    asyncio.run(run())
    assert rank.batches == batches


def test_while_a_batch_runs_the_next_one_gathers() -> None:
    rank = Recorder(0.05)

    async def run() -> None:
        batcher = Batcher(rank, BatchingConfig(wait=0))
        first = asyncio.ensure_future(batcher.submit(request("first"), Options(), 1.0))
        await asyncio.sleep(0.01)
        await asyncio.gather(first, *(batcher.submit(request(str(i)), Options(), 1.0) for i in range(3)))

    asyncio.run(run())
    assert rank.batches == [["first"], ["0", "1", "2"]]


def test_batches_run_side_by_side_if_the_engine_can() -> None:
    rank = Recorder(0.1)

    async def run() -> float:
        batcher = Batcher(rank, BatchingConfig(size=1, wait=0), concurrency=4)
        started = time.monotonic()
        await asyncio.gather(*(batcher.submit(request(str(i)), Options(), 1.0) for i in range(4)))
        return time.monotonic() - started

    assert asyncio.run(run()) < 0.3


def test_a_full_queue_says_when_to_come_back() -> None:
    async def run() -> QueueFullError:
        batcher = Batcher(Recorder(0.2), BatchingConfig(size=1, queue=2, wait=0))
        asked = []
        for i in range(3):  # the first runs, two wait
            asked.append(asyncio.ensure_future(batcher.submit(request(str(i)), Options(), 1.0)))
            await asyncio.sleep(0.01)
        assert batcher.waiting == 2
        with pytest.raises(QueueFullError) as caught:
            await batcher.submit(request("late"), Options(), 1.0)
        await asyncio.gather(*asked)
        return caught.value

    assert 1 <= asyncio.run(run()).retry_after <= 60


@pytest.mark.parametrize("bad", ["wrong", "broken"])
def test_a_request_that_cannot_be_ranked_is_told_so(bad: str) -> None:
    rank = Recorder()

    async def run() -> list[Ranking | BaseException]:
        batcher = Batcher(rank, BatchingConfig())
        names = ("good", bad, "better")
        asked = [batcher.submit(request(name), Options(), 1.0) for name in names]
        return await asyncio.gather(*asked, return_exceptions=True)

    found = asyncio.run(run())
    if bad == "wrong":
        assert [type(one) for one in found] == [Ranking, InputError, Ranking], "the others are ranked"
    else:
        assert [type(one) for one in found] == [RuntimeError] * 3


def test_a_batch_stops_when_all_its_callers_are_gone() -> None:
    rank = Recorder(60)

    async def run() -> None:
        batcher = Batcher(rank, BatchingConfig(size=2))
        asked = [asyncio.ensure_future(batcher.submit(request(str(i)), Options(), 1.0)) for i in range(3)]
        await asyncio.sleep(0.02)
        assert rank.batches == [["0", "1"]]
        asked[2].cancel()
        asked[0].cancel()
        await asyncio.sleep(0.01)
        assert (rank.stopped, batcher.waiting) == (0, 0), "one still waits, the one in the queue is gone"
        asked[1].cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        await asyncio.sleep(0.01)

    asyncio.run(run())
    assert (rank.stopped, len(rank.batches)) == (1, 1)


def test_closing_answers_those_who_wait_with_an_error() -> None:
    async def run() -> list[Ranking | BaseException]:
        batcher = Batcher(Recorder(60), BatchingConfig(size=1, wait=0))
        asked = [asyncio.ensure_future(batcher.submit(request(str(i)), Options(), 1.0)) for i in range(2)]
        await asyncio.sleep(0.01)
        await batcher.close()
        with pytest.raises(EngineError, match="shuts down"):
            await batcher.submit(request("late"), Options(), 1.0)
        return await asyncio.gather(*asked, return_exceptions=True)

    assert [type(one) for one in asyncio.run(run())] == [EngineError, EngineError]


def test_the_model_has_a_thread_of_its_own() -> None:
    thread = ModelThread()
    stopped = threading.Event()

    async def where() -> str:
        time.sleep(0.05)
        return threading.current_thread().name

    async def forever() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    async def run() -> None:
        ticks = 0
        asked = asyncio.ensure_future(thread.call(where()))
        while not asked.done():
            await asyncio.sleep(0.001)
            ticks += 1
        assert ticks > 5, "this loop went on meanwhile"
        assert asked.result() == "genrank-model"
        work = asyncio.ensure_future(thread.call(forever()))
        await asyncio.sleep(0.01)
        work.cancel()
        assert await asyncio.to_thread(stopped.wait, 2)

    asyncio.run(run())
    thread.close()


def test_who_still_waits_leaves_in_time() -> None:
    rank = Recorder(1.0)

    async def run() -> list[str]:
        now = time.monotonic()
        batcher = Batcher(rank, BatchingConfig(size=2, wait=0), slack=0.2)
        asked = [batcher.submit(request(str(i)), Options(), now + 9.0, leaves=now + 0.5) for i in range(4)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert batcher.waiting == 0
        return [type(one).__name__ for one in found]

    assert asyncio.run(run()) == ["Ranking", "Ranking", "TimeoutError", "TimeoutError"]
    assert rank.batches == [["0", "1"]], "the others were dropped"


def test_who_ends_before_its_batch_leaves_it() -> None:
    rank = Recorder(1.0)

    async def run() -> list[str]:
        now = time.monotonic()
        batcher = Batcher(rank, BatchingConfig(size=3, wait=0), slack=0.2)
        asked = [batcher.submit(request(str(end)), Options(), now + end, leaves=now + 0.5) for end in (9.0, 8.0, 8.9)]
        return [type(one).__name__ for one in await asyncio.gather(*asked, return_exceptions=True)]

    assert asyncio.run(run()) == ["Ranking", "TimeoutError", "Ranking"]
    assert rank.batches == [["9.0", "8.0", "8.9"]]


class SharedEngine:
    """Does one request in 0.1 s, and two at once in 0.2 s, as engines do; gives up at the end of their time."""

    def __init__(self) -> None:
        self.running = 0

    async def __call__(self, requests: Sequence[Request], options: Options, ends: float) -> list[Ranking]:
        self.running += len(requests)
        left = float(len(requests))
        while left > 0 and time.monotonic() < ends:
            await asyncio.sleep(0.01)
            left -= 0.1 * len(requests) / self.running
        self.running -= len(requests)
        made = Provenance(windows=1) if left <= 0 else Provenance(outcome="fallback", cause="deadline")
        return [Ranking(one.query.text, (), made) for one in requests]


def test_an_engine_with_too_much_to_do_gets_less_until_it_is_in_time() -> None:
    async def run() -> list[bool]:
        batcher = Batcher(SharedEngine(), BatchingConfig(size=2), concurrency=4, fair=0.15)
        in_time = []

        async def client() -> None:
            for _ in range(10):
                ranking = await batcher.submit(request("x"), Options(), time.monotonic() + 0.35)
                in_time.append(ranking.provenance.windows > 0)

        assert batcher.admitted == 8
        await asyncio.gather(*(client() for _ in range(8)))
        assert batcher.admitted < 8
        return in_time

    in_time = asyncio.run(run())
    assert not any(in_time[:8]), "eight at once would take 0.8 s, and have 0.35"
    assert sum(in_time[8:]) > 8, "without a limit, none would be in time"


def test_who_can_still_be_in_time_comes_first() -> None:
    rank = SharedEngine()

    async def run() -> list[str]:
        batcher = Batcher(rank, BatchingConfig(size=1), fair=9.0)
        done = []

        async def ask(name: str, seconds: float) -> None:
            await batcher.submit(request(name), Options(), time.monotonic() + seconds)
            done.append(name)

        await ask("first", 5.0)  # so that it is known how long one takes
        await asyncio.gather(ask("runs", 5.0), ask("too-late", 0.15), ask("in-time", 5.0))
        return done

    assert asyncio.run(run()) == ["first", "runs", "in-time", "too-late"]


def test_how_much_is_admitted_follows_what_is_in_time() -> None:
    made = [Provenance(cause="deadline")] * 3 + [Provenance(windows=1)] * 3 + [Provenance(cause="engine-error")]
    seconds = iter([9.0, 1.0, 9.0, 9.0, 9.0, 9.0, 9.0])

    async def rank(requests: Sequence[Request], options: Options, ends: float) -> list[Ranking]:
        return [Ranking("x", (), made.pop(0))]

    async def run() -> list[int]:
        batcher = Batcher(rank, BatchingConfig(size=4), concurrency=2, fair=5.0)
        found = []
        for left in seconds:
            await batcher.submit(request("x"), Options(), time.monotonic() + left)
            found.append(batcher.admitted)
        return found

    # one late; one late with little time; late again; three in time; one that failed
    assert asyncio.run(run()) == [1, 1, 1, 2, 2, 2, 2]


def test_an_engine_in_time_is_asked_for_all_it_was() -> None:
    rank = Recorder(0.02)

    async def run() -> int:
        batcher = Batcher(rank, BatchingConfig(size=2), concurrency=3)
        await asyncio.gather(*(batcher.submit(request(str(i)), Options(), time.monotonic() + 9) for i in range(12)))
        return batcher.admitted

    assert asyncio.run(run()) == 6
    assert len(rank.batches) == 6
