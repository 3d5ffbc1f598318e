"""A soak: starts everything, lets one fault follow another, and gathers what was seen."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.server import Server
from eval.soak.answers import BY_THE_MODEL, Broken
from eval.soak.clients import Clients, Requests, Tally
from eval.soak.faults import FaultProxy
from eval.soak.processes import gateway, memory_mib, open_files, stand_in_engine, vllm_engine
from eval.soak.wire import free_port
from genrank.data.dataset import sample_shop
from genrank.errors import InputError
from genrank.experiment.program import say
from genrank.reranker import is_address

RECOVERS_WITHIN = 10.0
"""Seconds from the end of a fault until the model ranks again."""

_BATCH, _CONCURRENCY, _QUEUE = 4, 2, 16  # small, so that a crowd fills the queue
_CACHE_BYTES = 1 << 20  # full after seconds, so that its growth is over before memory is compared
_GATEWAY_WITHIN = 300.0
_NOTICED = 0.05  # seconds; shorter waits are usual
_GIVES_UP = 6  # times `RECOVERS_WITHIN`

FOR_A_MODEL: Mapping[str, Any] = {"clients": 2, "candidates": 6, "pause": 2.0}
"""What a model of 135M parameters can rank on two cores, while the faults come; without a model there is no limit."""


@dataclass(frozen=True)
class Settings:
    """What a soak is to do.

    Attributes:
        minutes: How long faults follow each other. Each comes at least once, so that it may take longer.
        seed: Of requests, pauses and faults.
        clients: Steady clients; a quarter as many are slow, and as many hang up.
        candidates: The most documents of a request; at least 2.
        pause: The longest that a client waits before its next request, in seconds.
        least_model: Of the new rankings, at least this share must be the model's, 0 to 1.
        deadline: The gateway's, in seconds.
        engine: ``vllm``, ``stand-in`` (a server without a model), or the address of a server, which is not killed.
        model: The model, for ``vllm``, or the one at the address; None for the server's only one.
        rest: Seconds between two faults.
        stall: Seconds that a stall takes.
        spell: Seconds that answers are malformed, that connections are refused, and that a killed engine stays away.
        cool_down: The circuit breaker's, in seconds.
        starts_within: Seconds that the engine has to start.
    """

    minutes: float = 20.0
    seed: int = 0
    clients: int = 8
    candidates: int = 20
    pause: float = 0.2
    least_model: float = 0.2
    deadline: float = 10.0
    engine: str = "vllm"
    model: str | None = None
    rest: float = 20.0
    stall: float = 5.0
    spell: float = 5.0
    cool_down: float = 2.0
    starts_within: float = 900.0

    def __post_init__(self) -> None:
        for name in ("minutes", "deadline", "clients"):
            if not getattr(self, name) > 0:
                raise InputError(f"must be more than 0, got {getattr(self, name)}", field=name)
        if self.candidates < 2:
            raise InputError(f"must be at least 2, got {self.candidates}", field="candidates")
        if not self.pause >= 0:
            raise InputError(f"must be 0 or more, got {self.pause}", field="pause")
        if not 0 <= self.least_model <= 1:
            raise InputError(f"must be from 0 to 1, got {self.least_model}", field="least_model")
        if self.engine not in ("vllm", "stand-in") and not is_address(self.engine):
            raise InputError(f"must be vllm, stand-in or an address (http://...), got {self.engine!r}", field="engine")


@dataclass
class Seen:
    """What a soak saw.

    Attributes:
        settings: What it was to do.
        tally: What the clients saw.
        seconds: How long clients asked.
        faults: How often each fault came.
        asked: What met the gateway's requests to the engine; see `FaultProxy.counts`.
        recoveries: Seconds from the end of each fault to the model's next new answer, by fault.
        memory: ``[samples]`` the time in seconds and the gateway's memory in MiB.
        files: ``[samples]`` the gateway's open files and connections.
        held_up: Seconds for which this program itself stood still and could take no answers. They do not count.
        longest: The longest of these waits.
    """

    settings: Settings
    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    recoveries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    memory: list[tuple[float, float]] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    held_up: float = 0.0
    longest: float = 0.0


async def soak(settings: Settings, folder: Path) -> Seen:
    """Run a soak.

    Args:
        settings: What to do.
        folder: For the logs of the engine and of the gateway.

    Raises:
        EngineError: When the engine or the gateway does not start.
        GenrankError: Whatever else keeps it from starting.
    """
    engine, address, model = _engine(settings, folder)
    proxy = FaultProxy(address, settings.seed)
    port = free_port()
    serving = None
    try:
        if engine is not None:
            say("starting the engine ...")
            await engine.start(settings.starts_within)
        await proxy.set_mode("plain")
        say("starting the gateway ...")
        serving = gateway(_configuration(settings, port, f"http://127.0.0.1:{proxy.port}{proxy.path}", model), folder)
        await serving.start(_GATEWAY_WITHIN)
        seen = await _Soak(settings, engine, proxy, serving, port).run()
        await _end(serving, folder / "gateway.log", seen.tally)
        return seen
    finally:
        await proxy.close()
        for server in (serving, engine):
            if server is not None:
                server.kill()


def _engine(settings: Settings, folder: Path) -> tuple[Server | None, str, str | None]:
    """The engine, if it is ours to start; its address; its model's name."""
    if is_address(settings.engine):
        return None, settings.engine, settings.model
    port, log = free_port(), folder / "engine.log"
    address = f"http://127.0.0.1:{port}/v1"
    if settings.engine == "stand-in":
        server, model = stand_in_engine(folder / "tokenizer", port, log)
        return server, address, model
    model = settings.model or "smollm2-135m"
    return vllm_engine(model, port, log), address, model


def _configuration(settings: Settings, port: int, engine: str, model: str | None) -> dict[str, Any]:
    return {
        "server": {"port": port, "deadline": settings.deadline, "playground": False},
        "model": {"engine": engine} | ({"model": model} if model else {}),
        "batching": {"size": _BATCH, "concurrency": _CONCURRENCY, "queue": _QUEUE},
        "cache": {"bytes": _CACHE_BYTES},
        "breaker": {"cool_down": settings.cool_down},
    }


async def _end(serving: Server, log: Path, tally: Tally) -> None:
    """End the gateway, and read its log for what no client sees: errors of its own, and exceptions that got lost."""
    if serving.status is not None:
        tally.break_(Broken("alive", f"the gateway ended by itself, with status {serving.status}"))
    elif (status := await serving.stop(60.0)) != 0:
        tally.break_(Broken("alive", f"the gateway ended with status {status} after SIGTERM"))
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if '"level": "error"' in line or "Traceback" in line or "never retrieved" in line or "never awaited" in line:
            tally.break_(Broken("alive", f"the gateway's log: {line[:500]}"))


class _Soak:
    """The time between start and end."""

    def __init__(
        self, settings: Settings, engine: Server | None, proxy: FaultProxy, serving: Server, port: int
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._proxy = proxy
        self._serving = serving
        self._random = random.Random(settings.seed)
        self._seen = Seen(settings)
        self._started = time.monotonic()
        requests = Requests(sample_shop(), settings.seed, settings.candidates)
        self._clients = Clients(
            port,
            requests,
            settings.deadline,
            self._seen.tally,
            settings.seed,
            pause=settings.pause,
            now=self._now,
            held_up=lambda: self._seen.held_up,
        )
        faults = {
            "stall": self._stall,
            "malformed": self._malformed,
            "refuse": self._refuse,
            "kill": self._kill,
            "crowd": self._crowd,
        }
        self._faults = {name: fault for name, fault in faults.items() if name != "kill" or engine is not None}

    def _now(self) -> str:
        return f"at {time.monotonic() - self._started:.1f} s"

    async def run(self) -> Seen:
        """Let faults follow each other until the time is over and each has come."""
        settings, seen = self._settings, self._seen
        watching = asyncio.create_task(self._watch())
        few = max(1, settings.clients // 4)
        self._clients.start(settings.clients, few, few)
        self._proxy.cutting = True
        try:
            await self._until_model_answers("start")
            ends = self._started + 60 * settings.minutes
            while time.monotonic() < ends or len(seen.faults) < len(self._faults):
                for name in self._random.sample(sorted(self._faults), len(self._faults)):
                    await asyncio.sleep(settings.rest)
                    if time.monotonic() >= ends and seen.faults[name]:
                        continue
                    say(f"{self._now()}: {name}")
                    await self._faults[name]()
                    seen.faults[name] += 1
                    await self._until_model_answers(name)
        finally:
            watching.cancel()
            await self._clients.stop()
            await asyncio.gather(watching, return_exceptions=True)
        seen.seconds = time.monotonic() - self._started
        seen.asked += self._proxy.counts
        self._check_exercised()
        return seen

    async def _stall(self) -> None:
        await self._in_mode("stall", self._settings.stall)

    async def _malformed(self) -> None:
        await self._in_mode("malformed", self._settings.spell)

    async def _refuse(self) -> None:
        await self._in_mode("refuse", self._settings.spell)

    async def _in_mode(self, mode: Any, seconds: float) -> None:
        await self._proxy.set_mode(mode)
        await asyncio.sleep(seconds)
        await self._proxy.set_mode("plain")

    async def _kill(self) -> None:
        if self._engine is not None:
            await asyncio.to_thread(self._engine.kill)
            await asyncio.sleep(self._settings.spell)
            await self._engine.start(self._settings.starts_within, attempts=5)

    async def _crowd(self) -> None:
        await self._clients.crowd(3 * (_QUEUE + _BATCH * _CONCURRENCY))

    async def _until_model_answers(self, fault: str) -> None:
        """Wait until the model ranks a new request, and record how long that takes from now on."""
        since = time.monotonic()
        gives_up = since + _GIVES_UP * RECOVERS_WITHIN
        while self._clients.model_answered < since and time.monotonic() < gives_up:
            await asyncio.sleep(0.02)
        took = (self._clients.model_answered if self._clients.model_answered >= since else time.monotonic()) - since
        if fault != "start":
            self._seen.recoveries[fault].append(took)
            if took > RECOVERS_WITHIN:
                self._seen.tally.break_(Broken("recovery", f"{took:.1f} s after {fault}"), self._now())

    async def _watch(self) -> None:
        """Note memory now and then, and how long this program itself was held up."""
        step, seen = 0.1, self._seen
        every = min(5.0, max(0.5, 60 * self._settings.minutes / 200))
        due = time.monotonic()
        while True:
            before = time.monotonic()
            if before >= due:
                due = before + every
                memory, files = memory_mib(self._serving.pid), open_files(self._serving.pid)
                if memory is not None:
                    seen.memory.append((before - self._started, memory))
                if files is not None:
                    seen.files.append(files)
            await asyncio.sleep(step)
            held_up = time.monotonic() - before - step
            if held_up > _NOTICED:
                seen.held_up += held_up
                seen.longest = max(seen.longest, held_up)

    def _check_exercised(self) -> None:
        """A soak in which something never happened shows nothing about it."""
        seen = self._seen
        came: Mapping[str, int] = {
            "a connection that was cut before the answer": seen.asked["cut before the answer"],
            "a connection that was cut within the answer": seen.asked["cut within the answer"],
            "a stalled request": seen.asked["stalled"],
            "a malformed answer": sum(count for name, count in seen.asked.items() if name.startswith("malformed: ")),
            "a full queue (429)": seen.tally.outcomes["status 429"],
            **{f"a {kind} client": seen.tally.clients[kind] for kind in ("slow", "stuck", "vanishing")},
            "an answer by the model": sum(len(seen.tally.seconds.get(tier, ())) for tier in BY_THE_MODEL),
        }
        for what, times in came.items():
            if not times:
                seen.tally.break_(Broken("exercised", f"{what} never came; run longer"))


def settings_of(options: Mapping[str, Any]) -> Settings:
    """The settings that a command line gives; the defaults are `FOR_A_MODEL` unless the engine is the stand-in.

    Raises:
        InputError: When one is wrong.
    """
    names = {one.name for one in dataclasses.fields(Settings)}
    given = {name: value for name, value in options.items() if name in names and value is not None}
    stand_in = given.get("engine", Settings.engine) == "stand-in"
    return Settings(**{**({} if stand_in else FOR_A_MODEL), **given})


def run_soak(settings: Settings, folder: Path) -> Seen:
    """`soak` in an event loop of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("engine.log", "gateway.log"):
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()
    return asyncio.run(soak(settings, folder))
