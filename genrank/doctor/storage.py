"""The folder where genrank keeps models: writable, with room, and its models whole."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from genrank.doctor.check import Check
from genrank.errors import ModelError
from genrank.models.registry import DEFAULT_MODEL, KNOWN_MODELS
from genrank.models.store import ModelStatus, fetch_command, home, list_models, verify

_ELSEWHERE = "export GENRANK_HOME=/path/to/another/folder"


def check_storage(*, deep: bool = False) -> list[Check]:
    """The folder, the room on its disk, and each known model.

    Args:
        deep: Whether to compare the files' SHA-256, not only their sizes.
    """
    folder = home()
    try:
        models = list_models()
        problems = {one.name: verify(one.name) if deep and one.fetched else list(one.problems) for one in models}
        checks = [check_home(folder, models), check_space(folder, models)]
    except (ModelError, OSError) as error:
        return [Check("home", "failed", str(error), _ELSEWHERE)]
    return checks + [check_model(one, problems[one.name]) for one in models]


def check_home(folder: Path, models: Sequence[ModelStatus]) -> Check:
    """Whether models can be stored in a folder, or in the one in which it would be made."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        words = f"{folder} cannot be written: {error.strerror or error}"
        if any(one.fetched for one in models):
            return Check("home", "missing", f"{words}; the models in it can be used", _ELSEWHERE)
        return Check("home", "failed", words, _ELSEWHERE)
    return Check("home", "ok", f"{folder}" if there == folder else f"{folder}, made at the first fetch")


def check_space(folder: Path, models: Sequence[ModelStatus]) -> Check:
    """Whether the disk has room for the default model, if it is not there yet."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    needed = KNOWN_MODELS[DEFAULT_MODEL].space
    fetched = any(one.fetched for one in models if one.name == DEFAULT_MODEL)
    if not fetched and free < needed:
        words = f"{_size(free)} are free, and fetching {DEFAULT_MODEL} needs {_size(needed)}"
        return Check("disk", "failed", words, _ELSEWHERE)
    return Check("disk", "ok", f"{_size(free)} free")


def check_model(status: ModelStatus, problems: Sequence[str]) -> Check:
    """One known model: whole, broken or not there."""
    name, fix = f"model {status.name}", fetch_command(KNOWN_MODELS[status.name])
    if problems:
        return Check(name, "failed", f"broken: {'; '.join(problems)}", fix)
    if not status.fetched:
        return Check(name, "missing", f"not fetched, about {_size(status.size)}", fix)
    return Check(name, "ok", f"whole, {_size(status.size)}")


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
