"""Follows a tutorial literally: every block of its page, in order, in one shell.

::

    python -m tests.tutorial docs/tutorial.md [--work FOLDER] [--installed] [--keep]

The page is followed in a copy of this checkout, with a home folder of its own and no variables but those of pip, so
that nothing on the machine helps. The seconds so far are printed after each block; the exit status is that of the first
block that fails.
``--installed`` leaves out the blocks that install or fetch, and takes this interpreter's packages and this machine's
models. A block of Python goes to ``python``, what a heredoc writes is written.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "docs" / "tutorial.md", ROOT / "docs" / "tutorial.zh.md")
_FENCE = re.compile(r"(<!-- not run: [^>]+ -->\n)?^```(sh|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_INSTALLS = re.compile(r"\bpip install\b|\bgenrank models fetch\b")
_END = "END_OF_PYTHON"


@dataclass(frozen=True)
class Block:
    """A block of a page.

    Attributes:
        language: ``sh`` or ``python``.
        code: As it stands there.
        line: Where it begins, 1-based.
    """

    language: str
    code: str
    line: int

    @property
    def installs(self) -> bool:
        """Whether it installs packages or fetches a model."""
        return bool(_INSTALLS.search(self.code))

    @property
    def script(self) -> str:
        """What a shell runs for it."""
        if self.language == "sh":
            return self.code
        return f"python - <<'{_END}'\n{self.code}{_END}\n"


def blocks(page: Path) -> list[Block]:
    """The blocks of a page that a reader runs, in order, without those that a comment says are not run here."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(found[2], found[3], text.count("\n", 0, found.start(2)) + 1)
        for found in _FENCE.finditer(text)
        if not found[1]
    ]


def copy_checkout(folder: Path) -> Path:
    """Copy what git tracks, and new files that it does not ignore.

    Args:
        folder: Must not exist.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def follow(todo: Sequence[Block], clone: Path, environment: Mapping[str, str], out: IO[str] | None = None) -> int:
    """Run blocks in one shell; what they start in the background ends with it.

    Args:
        todo: The blocks.
        clone: The folder in which they run.
        environment: All variables.
        out: Where all output goes, in order; None is this process's own.

    Returns:
        The shell's exit status.
    """
    lines = ["set -euo pipefail", "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT", "SECONDS=0"]
    for block in todo:
        lines += [f"echo '=== line {block.line}'", block.script, 'echo "=== $SECONDS s"']
    command = ["bash", "-c", "\n".join(lines)]
    return subprocess.run(command, cwd=clone, env=environment, stdout=out, stderr=out, check=False).returncode


def installed(work: Path, clone: Path) -> dict[str, str]:
    """The variables of a shell that finds this interpreter, its packages, and the code of `clone`.

    Args:
        work: An existing folder for what it needs.
        clone: The copy of the checkout.
    """
    commands = work / "bin"
    commands.mkdir()
    for name, words in (("python", []), ("python3", []), ("genrank", ["-m", "genrank"])):
        script = f'#!/bin/sh\nexec {shlex.join([sys.executable, *words])} "$@"\n'
        (commands / name).write_text(script, encoding="utf-8")
        (commands / name).chmod(0o755)
    if not (clone / "genrank" / "prompts").exists():
        (clone / "genrank" / "prompts").symlink_to("../prompts")  # as installing would
    kept = {name: value for name, value in os.environ.items() if name in ("GENRANK_HOME", "OMP_NUM_THREADS")}
    return kept | {"PATH": f"{commands}:{os.defpath}", "PYTHONPATH": str(clone)} | home(work)


def home(work: Path) -> dict[str, str]:
    """A home folder of its own, and pip's settings."""
    (work / "home").mkdir()
    settings = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    return settings | {"HOME": str(work / "home"), "LANG": "C.UTF-8"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: Command line without the program's name; None takes the process's own.

    Returns:
        Exit status: that of the shell.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.tutorial", description="Follow a tutorial literally.")
    parser.add_argument("page", type=Path, help="docs/tutorial.md or docs/tutorial.zh.md")
    parser.add_argument("--work", type=Path, help="an empty or new folder to work in (a temporary one)")
    parser.add_argument("--installed", action="store_true", help="install and fetch nothing")
    parser.add_argument("--keep", action="store_true", help="leave the folder there")
    options = parser.parse_args(arguments)
    work = Path(tempfile.mkdtemp(prefix="tutorial-")) if options.work is None else options.work.absolute()
    clone, todo = copy_checkout(work / "genrank"), blocks(options.page)
    if options.installed:
        environment = installed(work, clone)
        todo = [block for block in todo if not block.installs]
    else:
        environment = home(work) | {"PATH": f"{Path(sys.base_prefix) / 'bin'}:{os.defpath}"}
    status = follow(todo, clone, environment)
    sys.stdout.write(f"{options.page}: exit status {status}; it was followed in {work}\n")
    if not options.keep and status == 0:
        shutil.rmtree(work)
    return status


if __name__ == "__main__":
    sys.exit(main())
