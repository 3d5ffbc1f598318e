"""What the engines share whose work runs in an event loop in a thread of their own: waiting for it, and its answers."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

from genrank.engines.base import PermuteRequest, ScoreRequest, Stop, TextRequest

R = TypeVar("R", ScoreRequest, PermuteRequest, TextRequest)
A = TypeVar("A")


def wait_for(future: concurrent.futures.Future[Any], stop: Stop) -> None:
    """Wait until `future` is done; cancel it when `stop` says to give up."""
    try:
        with stop.on_cancel(future.cancel):
            concurrent.futures.wait([future], stop.left())
    finally:
        future.cancel()


async def await_for(future: concurrent.futures.Future[Any], stop: Stop) -> None:
    """`wait_for` in the caller's own event loop; when the caller is cancelled, so is `future`."""
    try:
        with stop.on_cancel(future.cancel):
            waiting = asyncio.wrap_future(future)
            waiting.add_done_callback(lambda done: done.cancelled() or done.exception())  # else asyncio logs it
            await asyncio.wait({waiting}, timeout=stop.left())
    finally:
        future.cancel()


class Answers(Generic[A]):
    """The answers to a call.

    Attributes:
        found: ``[b]`` in the requests' order; None where there is none yet.
    """

    def __init__(self, requests: Sequence[object], stop: Stop) -> None:
        self.found: list[A | None] = [None] * len(requests)
        self._requests, self._stop = requests, stop

    def give(self, i: int, answer: A) -> None:
        """Keep and publish the answer to request `i`."""
        self.found[i] = answer
        self._stop.publish(self._requests[i], answer)


async def answer_each(
    requests: Sequence[R], answer: Callable[[R], Coroutine[Any, Any, A]], answers: Answers[A]
) -> None:
    """Answer all requests at once, each by itself."""

    async def fill(i: int, request: R) -> None:
        answers.give(i, await answer(request))

    async with asyncio.TaskGroup() as group:
        for i, request in enumerate(requests):
            group.create_task(fill(i, request))
