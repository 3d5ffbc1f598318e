"""Kills a process at every step of a change to an adapter's versions, and checks what is left.

``python -m tests.versions_crash add|promote|rollback FOLDER`` prints at how many steps it was killed.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from genrank.models.versions import AdapterVersions

STEPS = ("open", "os.mkdir", "os.rename", "os.symlink", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree")
KILLED = 9


def change(action: str, folder: Path) -> None:
    """Three versions are there; the second is served, and the first was before it."""
    versions = AdapterVersions(folder / "adapters")
    match action:
        case "add":
            versions.add(folder / "four", parent="2")
        case "promote":
            versions.promote("3")
        case "rollback":
            versions.rollback()


def check(action: str, folder: Path) -> None:
    """What is served is whole, and the change can be made again and undone."""
    versions = AdapterVersions(folder / "adapters")
    served = versions.current()
    after = {"add": 2, "promote": 3, "rollback": 1}[action]
    assert served is not None
    assert served.number in (2, after)
    for version in versions.all():
        versions.check(version)
    if served.number != after or action == "add":
        change(action, folder)
    versions.add(folder / "five")  # any writer makes the history complete
    history = versions.history()
    served = versions.current()
    assert served is not None
    assert (history[-1].version, served.number) == (served.name, after)
    assert len(versions.all()) == (5 if action == "add" else 4)
    if action != "rollback":
        assert versions.rollback().number == (1 if action == "add" else 2)
    assert not [path for path in versions.folder.iterdir() if path.suffix == ".part"]


def kill_at_each_step(action: str, root: Path) -> int:
    """Returns the number of steps."""
    whole = root / "whole"
    for name in ("one", "two", "three", "four", "five"):
        (whole / name).mkdir(parents=True)
        (whole / name / "weights.txt").write_text(name)
    versions = AdapterVersions(whole / "adapters")
    for name in ("one", "two", "three"):
        versions.add(whole / name)
    versions.promote("1")
    versions.promote("2")
    step = 0
    while True:
        step += 1
        folder = root / str(step)
        shutil.copytree(whole, folder, symlinks=True)
        child = os.fork()
        if not child:
            sys.addaudithook(killer(step))
            change(action, folder)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, KILLED)
        check(action, folder)
        if not status:
            return step - 1


def killer(step: int) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that ends the process at its n-th step."""
    left = [step]

    def hook(event: str, _: tuple[Any, ...]) -> None:
        if event in STEPS:
            left[0] -= 1
            if not left[0]:
                os._exit(KILLED)

    return hook


if __name__ == "__main__":
    sys.stdout.write(f"{kill_at_each_step(sys.argv[1], Path(sys.argv[2]))}\n")
