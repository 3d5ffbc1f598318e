from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from genrank.engines.base import ScoreRequest, Stop, never
from genrank.engines.loops import Answers, answer_each, await_for, wait_for

Start = Callable[[float], "concurrent.futures.Future[int]"]
Wait = Callable[["concurrent.futures.Future[int]", Stop], None]
WAITS: tuple[Wait, ...] = (wait_for, lambda future, stop: asyncio.run(await_for(future, stop)))


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts work of some seconds in an event loop in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def work(seconds: float) -> int:
        await asyncio.sleep(seconds)
        return 3

    yield lambda seconds: asyncio.run_coroutine_threadsafe(work(seconds), loop)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("wait", WAITS)
def test_it_waits_until_the_work_is_done(start: Start, wait: Wait) -> None:
    future = start(0.02)
    wait(future, never)
    assert future.result(timeout=0) == 3


@pytest.mark.timeout(20)
@pytest.mark.parametrize("wait", WAITS)
def test_work_that_is_given_up_is_cancelled(start: Start, wait: Wait) -> None:
    future, stop = start(60.0), Stop()
    threading.Timer(0.02, stop.cancel).start()
    wait(future, stop)
    assert future.cancelled()


@pytest.mark.timeout(20)
def test_a_cancelled_caller_cancels_the_work(start: Start) -> None:
    future = start(60.0)

    async def cancelled() -> None:
        task = asyncio.create_task(await_for(future, never))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert future.cancelled()


def test_each_request_has_its_own_answer_which_is_published_as_it_comes() -> None:
    requests = [ScoreRequest((i,), (0,), (1,)) for i in range(3)]
    stop = Stop()
    answers = Answers[int](requests, stop)
    seen: list[Any] = []

    async def answer(request: ScoreRequest) -> int:
        await asyncio.sleep(0.05 * (3 - request.ids[0]))  # the last one is the first to be done
        seen.append([stop.finished(one) for one in requests])
        return request.ids[0]

    asyncio.run(answer_each(requests, answer, answers))
    assert answers.found == [0, 1, 2]
    assert seen == [[None, None, None], [None, None, 2], [None, 1, 2]]
