"""The engine and the gateway as processes of their own, and what the gateway takes of memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import tomli_w

from genrank.errors import EngineError

ROOT = Path(__file__).resolve().parents[2]
_TAIL = 2000  # characters of a log, for an error


class Server:
    """A server that is started as a process, with all its children.

    Args:
        name: For errors.
        command: Starts it.
        health: An address that answers with status 200 once it serves.
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
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get(self._health)).status_code == 200:
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


def stand_in_engine(folder: Path, port: int, log: Path) -> tuple[Server, str]:
    """The engine without a model, and its model's name."""
    from eval.soak.stand_in import save_tokenizer

    model = save_tokenizer(folder)
    command = [sys.executable, "-m", "eval.soak.stand_in", model, "--port", str(port)]
    return Server("engine", command, f"http://127.0.0.1:{port}/health", log), model


def vllm_engine(model: str, port: int, log: Path) -> Server:
    """The server of vLLM, as ``genrank vllm`` starts it; short contexts and no compilation, so that it is soon back."""
    flags = ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", "4096", "--enforce-eager"]
    # on processors that it shares with the gateway, the model must not keep that from answering in time
    command = ["nice", "-n", "5", sys.executable, "-m", "genrank", "vllm", "--model", model, *flags]
    settings = {"VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"), "VLLM_NO_USAGE_STATS": "1"}
    return Server("engine", command, f"http://127.0.0.1:{port}/health", log, settings)


def gateway(config: Mapping[str, Any], folder: Path) -> Server:
    """``genrank serve`` with a configuration, which is written to the folder."""
    file = folder / "gateway.toml"
    file.write_text(tomli_w.dumps(config), encoding="utf-8")
    command = [sys.executable, "-m", "genrank", "serve", "--config", str(file)]
    return Server("gateway", command, f"http://127.0.0.1:{config['server']['port']}/ready", folder / "gateway.log")


def memory_mib(pid: int) -> float | None:
    """What a process has of memory (RSS); None where the system does not say as Linux does."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith("VmRSS:")), None)
    return int(found.split()[1]) / 1024 if found else None


def open_files(pid: int) -> int | None:
    """How many files and connections a process has open; None where the system does not say as Linux does."""
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return None
