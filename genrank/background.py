"""An event loop in a thread of its own, so that callers from any thread and any event loop share what runs in it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable


def start_loop(name: str) -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
    """Start a loop in a daemon thread of this name."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name=name, daemon=True)
    thread.start()
    return loop, thread


def end_loop(
    loop: asyncio.AbstractEventLoop, thread: threading.Thread, *closing: Callable[[], Awaitable[object]]
) -> None:
    """Cancel the tasks in a loop of `start_loop`, await what `closing` begins, and end the loop; never an error."""
    if threading.current_thread() is thread:  # the garbage collector may call this from any thread
        threading.Thread(target=end_loop, args=(loop, thread, *closing)).start()
        return

    async def finish() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for close in closing:
            await close()
        await loop.shutdown_asyncgens()

    with contextlib.suppress(Exception):
        asyncio.run_coroutine_threadsafe(finish(), loop).result(timeout=10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(timeout=10)
    if not thread.is_alive():
        loop.close()
