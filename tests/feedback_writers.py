"""Processes that write to a feedback log, and one that compacts it, killed at random: FOLDER ACKNOWLEDGED KILLS."""

import itertools
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from genrank.search.feedback.log import FeedbackLog

SIZE = 5
WRITERS = 8


def write(folder: str, acknowledged: Path, name: str) -> None:
    log = FeedbackLog(folder)
    out = os.open(acknowledged, os.O_WRONLY | os.O_APPEND)
    done = sum(line.startswith(f"{name}-") for line in acknowledged.read_text().splitlines())
    for number in itertools.count(max(done - 1, 0)):  # the last one again, as after an answer that was lost
        request, at = f"{name}-{number}", datetime(2026, 1, 1) + timedelta(seconds=number)
        log.shown([f"l{i}" for i in range(SIZE)], request_id=request, query="lamp", user_id=name, time=at)
        log.event(request, f"l{number % SIZE}", "click", time=at)
        os.write(out, f"{request}\n".encode())


def compact(folder: str) -> None:
    log = FeedbackLog(folder)
    while True:
        log.compact()


def start(work: Callable[[], None]) -> int:
    if pid := os.fork():
        return pid
    try:
        work()
    finally:
        os._exit(1)  # only a signal ends the work


def main(folder: str, acknowledged: Path, kills: int) -> None:
    acknowledged.touch()
    works: dict[str, Callable[[], None]] = {"compact": lambda: compact(folder)}
    for number in range(WRITERS):
        works[f"w{number}"] = lambda name=f"w{number}": write(folder, acknowledged, name)  # type: ignore[misc]
    running = {name: start(work) for name, work in works.items()}
    chance = random.Random(0)
    try:
        while True:
            time.sleep(chance.uniform(0, 0.2))
            writing = {line.split("-")[0] for line in acknowledged.read_text().splitlines()}
            if kills <= 0 and len(writing) == WRITERS:
                break
            if len(writing) < WRITERS // 2:
                continue  # they are still starting
            kills -= 1
            name = chance.choice(list(works))
            os.kill(running[name], signal.SIGKILL)
            if os.waitpid(running[name], 0)[1] != signal.SIGKILL:
                sys.exit(f"{name} failed")
            running[name] = start(works[name])
    finally:
        for pid in running.values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
