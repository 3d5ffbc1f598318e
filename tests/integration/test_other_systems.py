"""Every module imports without what only Linux or only Unix has, so also on macOS and Windows."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import builtins, importlib, json, os, sys
given = json.loads(sys.argv[1])
ours = tuple(name + "." for name in ("genrank", "eval", "finetune"))
there = builtins.__import__

def without(name, globals=None, locals=None, fromlist=(), level=0):
    who = (globals or {}).get("__name__") or ""
    if (who + ".").startswith(ours) and name.partition(".")[0] in given["modules"]:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return there(name, globals, locals, fromlist, level)

builtins.__import__ = without
for name in given["functions"]:
    if hasattr(os, name):
        delattr(os, name)
from genrank.errors import MissingExtraError
failed = {}
for name in given["names"]:
    try:
        importlib.import_module(name)
    except MissingExtraError:
        pass
    except Exception as error:
        failed[name] = f"{type(error).__name__}: {error}"
print(json.dumps(failed))
"""


def modules(*packages: str) -> list[str]:
    found = []
    for package in packages:
        walked = pkgutil.walk_packages([str(ROOT / package)], f"{package}.")
        found += [package, *(module.name for module in walked if not module.name.endswith("__main__"))]
    return found


def test_every_module_imports_without_what_other_systems_lack() -> None:
    pytest.importorskip("trl")
    names = modules("genrank", "eval", "finetune")
    assert {"genrank.cli.main", "eval.peers", "eval.bench", "eval.sets.esci", "finetune.grpo"} <= set(names)
    given = {
        "names": names,
        "functions": ("sched_getaffinity", "sched_setaffinity", "mkfifo", "killpg", "getpgid"),
        "modules": ("resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "curses"),
    }
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {}
