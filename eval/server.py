"""A server as a process of its own, for programs that measure one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx

from genrank.errors import EngineError

ROOT = Path(__file__).resolve().parents[1]
_TAIL = 2000  # characters of a log, for an error


class Server:
    """A server that is started as a process, with all its children.

    Args:
        name: For errors.
        command: Starts it.
        health: An address that answers with status 200 once it serves; if it is not one of HTTP, it then takes
            connections.
        log: A file for what it writes.
        environment: Variables that it gets besides this process's own.
    """

    def __init__(
        self, name: str, command: Sequence[str], health: str, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._name = name
        self._command = command
        self._health = health
        self._log = log
        self._environment = {**os.environ, "NO_PROXY": "127.0.0.1", **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process's id; 0 when it was never started."""
        return self._process.pid if self._process else 0

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll() if self._process else None

    async def start(self, within: float, attempts: int = 1) -> None:
        """Start it and wait until it serves.

        Args:
            within: Seconds that it has.
            attempts: How often it is started if it ends before that; a GPU's memory, for one, is not free at once.

        Raises:
            EngineError: When it does not serve.
        """
        ends = time.monotonic() + within
        self._spawn()
        async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
            while True:
                if await self._serves(client):
                    return
                if ended := self.status is not None:
                    attempts -= 1
                if time.monotonic() > ends or not attempts:
                    tail = self._log.read_text(encoding="utf-8", errors="replace")[-_TAIL:]
                    self.kill()
                    raise EngineError(f"the {self._name} does not serve; {self._log} ends: {tail}")
                await asyncio.sleep(1.0 if ended else 0.05)
                if ended:
                    self._spawn()

    async def _serves(self, client: httpx.AsyncClient) -> bool:
        if self._health.startswith("http"):
            with contextlib.suppress(httpx.HTTPError):
                return (await client.get(self._health)).status_code == 200
            return False
        address = httpx.URL(self._health)
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(address.host, address.port)
            writer.close()
            return True
        return False

    @contextlib.contextmanager
    def running(self, within: float) -> Iterator[None]:
        """It serves in the block, outside of any event loop; `within` and errors are those of `start`."""
        self._log.unlink(missing_ok=True)
        try:
            asyncio.run(self.start(within))
            yield
        finally:
            asyncio.run(self.stop(30.0))

    def _spawn(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """End it and its children at once, without a word."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    async def stop(self, within: float) -> int | None:
        """Ask it to end; returns its exit status, None when it does not end in so many seconds and is killed."""
        if self._process is None:
            return None
        self._process.terminate()
        try:
            return await asyncio.to_thread(self._process.wait, within)
        except subprocess.TimeoutExpired:
            self.kill()
            return None
