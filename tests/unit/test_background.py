"""Loops in threads of their own."""

from __future__ import annotations

import asyncio
import threading

from genrank.background import end_loop, start_loop


def test_the_end_cancels_what_runs_and_closes_the_rest() -> None:
    loop, thread = start_loop("genrank-test")
    happened: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            happened.append("cancelled")

    async def close() -> None:
        happened.append("closed")

    running = asyncio.run_coroutine_threadsafe(work(), loop)
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(timeout=10)
    end_loop(loop, thread, close)
    assert happened == ["cancelled", "closed"]
    assert running.cancelled()
    assert loop.is_closed()
    assert not thread.is_alive()


def test_a_close_that_fails_does_not_keep_the_loop() -> None:
    loop, thread = start_loop("genrank-test")

    async def close() -> None:
        raise OSError("gone")

    end_loop(loop, thread, close)
    assert loop.is_closed()


def test_the_loops_own_thread_may_end_it() -> None:
    loop, thread = start_loop("genrank-test")
    ended = threading.Event()

    async def close() -> None:
        ended.set()

    loop.call_soon_threadsafe(end_loop, loop, thread, close)
    assert ended.wait(10)
    thread.join(10)
    assert not thread.is_alive()
