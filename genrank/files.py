"""Files: hashes of what they hold, and writing them whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from genrank.progress import Progress, Silent

BLOCK = 1 << 20


def sha256_of(path: Path, report: Progress | None = None) -> str:
    """SHA-256 of a file's bytes, as hex digits; `report` is told of each block."""
    report = report or Silent()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            report.advance(len(block))
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk now."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def raise_if_full(said: str, place: Path) -> None:
    """A full disk is the same trouble whichever program meets it."""
    if os.strerror(errno.ENOSPC) in said:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))


def fingerprint(value: Any) -> str:
    """SHA-256 of a JSON value, as hex digits; the order of a mapping's keys does not matter."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def files_fingerprint(path: str | Path) -> str:
    """SHA-256 of a file, or of all files of a folder with their names; hidden ones are left out.

    Raises:
        OSError: When something cannot be read.
    """
    root = Path(path)
    if root.is_file():
        return sha256_of(root)
    names = sorted(file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file())
    shown = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    return fingerprint([(name, sha256_of(root / name)) for name in shown])
