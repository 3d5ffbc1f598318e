"""Starts a server as a process of its own, for integration tests."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def started(
    command: Callable[[int], Sequence[str]],
    ready: str,
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    key: str = "",
    within: float = 300.0,
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A running server's address, without a path, and its process; it ends with the block.

    Args:
        command: Starts it at the port that it is given, on this machine.
        ready: The path that answers with status 200 once it serves.
        log: A file for what it writes.
        environment: Variables that it gets besides this process's own.
        key: Sent to `ready`; empty for none.
        within: Seconds that it has to start.
    """
    import httpx

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    headers = {"Authorization": f"Bearer {key}"} if key else {}

    def serves() -> bool:
        try:
            return httpx.get(url + ready, headers=headers, timeout=30).status_code == 200
        except httpx.HTTPError:
            return False

    variables = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    with log.open("wb") as out:
        process = subprocess.Popen(command(port), env=variables, cwd=ROOT, stdout=out, stderr=out)
    try:
        ends = time.monotonic() + within
        while not serves():
            ended = process.poll() is not None or time.monotonic() > ends
            assert not ended, log.read_text(encoding="utf-8", errors="replace")[-4000:]
            time.sleep(0.2)
        yield url, process
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
