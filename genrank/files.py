"""Files: hashes of their contents, and safe writing."""

from __future__ import annotations

import codecs
import contextlib
import errno
import hashlib
import importlib.resources
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from genrank.progress import Progress, Silent

BLOCK = 1 << 20


def prompts_folder() -> Traversable:
    """The prompt templates that ship with genrank; in a clone that is not installed, the folder beside the package.

    Raises:
        ModuleNotFoundError: When there is neither.
    """
    try:
        return importlib.resources.files("genrank.prompts")
    except ModuleNotFoundError:
        beside = Path(__file__).resolve().parent.parent / "prompts"
        if not beside.is_dir():
            raise
        return beside


def sha256_of(path: Path, report: Progress | None = None) -> str:
    """SHA-256 of a file's bytes, as hex digits; `report` receives the bytes read."""
    report = report or Silent()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            report.advance(len(block))
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open a folder
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def raise_if_full(said: str, place: Path) -> None:
    """Raise the `OSError` for a full disk if a program's output reports one."""
    if os.strerror(errno.ENOSPC) in said:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))


def fingerprint(value: Any) -> str:
    """SHA-256 of a JSON value, as hex digits; the order of a mapping's keys does not matter."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def files_fingerprint(path: str | Path) -> str:
    """SHA-256 of a file, or of a folder's files with their names; hidden files are left out.

    For a model use `genrank.models.weights`: a model's folder also holds dates and texts that do not matter.

    Raises:
        OSError: When a file cannot be read.
    """
    root = Path(path)
    if root.is_file():
        return sha256_of(root)
    names = sorted(file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file())
    shown = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    return fingerprint([(name, sha256_of(root / name)) for name in shown])


@contextlib.contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Write a file completely or not at all, even when other programs write it at the same time.

    ``with write_atomically(path) as part: part.write_text(...)``. Once the new file is on disk, it replaces the old
    one and takes over its permissions. A symbolic link stays, and the file it points to is replaced. After an error
    nothing has changed. Anything but a regular file, such as ``/dev/stdout``, is written directly.

    Args:
        path: The file; its folder must exist.

    Yields:
        A new, empty file in the same folder, to be filled.

    Raises:
        OSError: When it cannot be written.
    """
    if (given := Path(path)).exists() and not (given.is_file() or given.is_dir()):
        yield given
        return
    target = Path(os.path.realpath(path))
    part = target.with_name(f".{secrets.token_hex(8)}.part")
    part.touch(exist_ok=False)
    try:
        yield part
        sync(part)
        with contextlib.suppress(FileNotFoundError):
            shutil.copymode(target, part)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # some file systems cannot sync a folder
        sync(target.parent)


@contextlib.contextmanager
def write_folder_atomically(folder: str | Path) -> Iterator[Path]:
    """Write a folder completely or not at all, replacing an old one.

    Args:
        folder: The folder; its parent must exist.

    Yields:
        A new, empty folder beside it, to be filled.

    Raises:
        OSError: When it cannot be written; the old folder is then still there.
    """
    target = Path(os.path.realpath(folder))
    token = secrets.token_hex(8)
    part, old = target.with_name(f".{token}.part"), target.with_name(f".{token}.old")
    part.mkdir()
    try:
        yield part
        if target.exists():
            target.rename(old)
        part.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    finally:
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)


BYTE_ORDER_MARK = "\ufeff"
_WIDE = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32"}
_WIDE |= {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


def wide_encoding(start: bytes) -> str:
    """``UTF-16`` or ``UTF-32`` when a text that begins with these bytes is encoded that way; else empty."""
    for mark, name in _WIDE.items():
        if start.startswith(mark):
            return name
    # no byte-order mark: ASCII characters, each beside a zero byte
    zeros = [byte == 0 for byte in start[:4]]
    return "UTF-16" if zeros in ([False, True, False, True], [True, False, True, False]) else ""


def read_text(path: str | Path) -> str:
    """The content of a UTF-8 text file, without a byte-order mark.

    Raises:
        OSError: When it cannot be read.
        ValueError: When it is not UTF-8; the message says what it is, and the fix.
    """
    content = Path(path).read_bytes()
    if encoding := wide_encoding(content):
        raise ValueError(f"{encoding} in place of UTF-8 text; save it as UTF-8")
    try:
        return content.decode("utf-8-sig").lstrip(BYTE_ORDER_MARK).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]  # error.object does not hold the byte-order mark
        raise ValueError(f"text that is not UTF-8: the byte {byte:#04x} (is this a binary file?)") from None
