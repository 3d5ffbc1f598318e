"""The environment of the clients, kept beside the models because it is large and seldom changes.

``python -m tests.clients.environment`` makes it, or does nothing where it is up to date.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

from genrank.models.store import home

REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def python() -> Path | None:
    """The interpreter of the environment; None where it is missing or out of date."""
    return _python() if _marker().is_file() and _marker().read_text(encoding="utf-8") == _wanted() else None


def make() -> None:
    """Install the clients, unless they are there already."""
    if python():
        return
    _marker().unlink(missing_ok=True)
    venv.create(_folder(), clear=True, with_pip=False)
    # the list is complete, so pip need not look for more
    install = ["install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile"]
    pip = [sys.executable, "-m", "pip", "--python", str(_python())]
    subprocess.run([*pip, *install, "--requirement", str(REQUIREMENTS)], check=True)
    _marker().write_text(_wanted(), encoding="utf-8")


def _folder() -> Path:
    return home() / "clients"


def _python() -> Path:
    return _folder() / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _marker() -> Path:
    """Holds what was installed; written last."""
    return _folder() / "installed.txt"


def _wanted() -> str:
    return f"Python {sys.version}\n{REQUIREMENTS.read_text(encoding='utf-8')}"


if __name__ == "__main__":
    make()
