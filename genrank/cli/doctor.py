"""``genrank doctor``: what works on this machine, and how to get what does not."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from genrank.cli.console import Cell, Table, print_table, quiet_libraries

if TYPE_CHECKING:
    from genrank.doctor.check import Check, State

_STYLES: dict[State, str] = {"ok": "green", "missing": "yellow", "failed": "bold red"}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``genrank doctor`` to the command line."""
    doctor = commands.add_parser(
        "doctor",
        help="what works on this machine",
        description="Check Python, the packages of each extra, the processor and GPUs, the models and the room for "
        "them, and a server. What is missing or failed comes with the command that gets or repairs it. Exit status 1 "
        "if something failed. Of environment variables only the names are shown.",
    )
    doctor.add_argument("--engine", metavar="URL", help="address of a server that is to run the model (none)")
    doctor.add_argument(
        "--deep",
        action="store_true",
        help="also import torch and vLLM, compare the models' checksums, and try the server",
    )
    doctor.add_argument("--json", action="store_true", help="a JSON object instead of a table")
    doctor.set_defaults(command=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from genrank.doctor.examine import examine

    environment = dict(os.environ)  # without what is set here
    quiet_libraries()
    checks = examine(server=arguments.engine, deep=arguments.deep, environment=environment)
    failed = any(check.state == "failed" for check in checks)
    if arguments.json:
        rows = [dataclasses.asdict(check) for check in checks]
        print(json.dumps({"ok": not failed, "checks": rows}, indent=2, ensure_ascii=False))
    else:
        print_table(_table(checks), sys.stdout)
    return 1 if failed else 0


def _table(checks: Sequence[Check]) -> Table:
    counts = Counter(check.state for check in checks)
    rows = [
        (Cell(check.name), Cell(check.state, _STYLES[check.state]), Cell(check.fix), Cell(check.found))
        for check in checks
    ]
    return Table(
        columns=("check", "state", "get or repair it with", "found"),  # what was found may be longer than any line
        rows=rows,
        caption=[Cell(", ".join(f"{counts[state]} {state}" for state in _STYLES if counts[state]))],
        whole=frozenset({"check", "state"}),
    )
