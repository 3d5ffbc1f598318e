"""Keeps the versions of an adapter in one folder, and says which of them is served.

::

    adapters/0001-3fa9c2d1/     a complete adapter, with version.json: where it comes from and what promoted it
    adapters/0002-77b01e5c/
    adapters/current            a symbolic link to the version that is served
    adapters/history.jsonl      one line for each promotion and rollback; lines are only ever added

``Reranker(adapter="adapters/current")`` takes the version that the link names at that moment. The link is replaced in
one step, and versions are never changed, so a process that is killed at any point leaves a valid link. Processes that
write take turns.

A version may be any ranker that is a folder of files; only adapters are checked for what they need to be served.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pydantic
from filelock import FileLock

from genrank.adapters import FILE, FITS, load_manifest, read_values
from genrank.errors import ChecksumError, ConfigError, InputError, ModelError
from genrank.files import fingerprint, sha256_of, sync
from genrank.models.weights import ADAPTER_CONFIG, check_adapter_files

RECORD = "version.json"
"""The file in a version's folder that says where it comes from."""

CURRENT = "current"
HISTORY = "history.jsonl"

Action = Literal["promote", "rollback", "found"]
"""``found``: the link had moved without a line in the history; the next writer adds it."""

_NAME = re.compile(r"(\d{4,})-[0-9a-f]{8}")
_PART = ".part"


@dataclass(frozen=True)
class Version:
    """One version of an adapter.

    Attributes:
        name: Its folder's name: a number from 0001 on, and the start of the fingerprint of its files.
        made: When it was added, ISO 8601 in UTC.
        parent: Name of the version that its training went on from; None for none.
        files: SHA-256 of each of its files, by path in its folder; of a manifest without what was fitted (`FITS` of
            `genrank.adapters`), which may be fitted again later.
        training: What it was trained on, as JSON types.
        comparison: How it compared with the version it was to replace, as JSON types.
    """

    name: str
    made: str
    parent: str | None
    files: Mapping[str, str]
    training: Mapping[str, Any] = field(default_factory=dict)
    comparison: Mapping[str, Any] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """Its number, 1 or more."""
        return int(self.name.split("-")[0])


@dataclass(frozen=True)
class Switch:
    """A line of the history.

    Attributes:
        time: When, ISO 8601 in UTC.
        action: What was done.
        version: Name of the version that is served from then on.
        before: Name of the one served until then; None for none.
        why: The caller's words.
    """

    time: str
    action: Action
    version: str
    before: str | None
    why: str = ""


_VERSION = pydantic.TypeAdapter(Version)
_SWITCH = pydantic.TypeAdapter(Switch)


class AdapterVersions:
    """The versions in one folder; any number of processes may use it at once.

    The folder must be on a file system with symbolic links.
    """

    def __init__(self, folder: str | Path) -> None:
        """Name the folder; it is created when the first version is added."""
        self.folder: Path = Path(folder).expanduser()

    def path(self, name: str) -> Path:
        """The folder of a version."""
        return self.folder / name

    def all(self) -> list[Version]:
        """All versions, oldest first.

        Raises:
            ModelError: When a version's record is missing or damaged.
        """
        names = [path.name for path in self.folder.glob("*-*") if _NAME.fullmatch(path.name)]
        return sorted(map(self._read, names), key=lambda version: version.number)

    def find(self, name: str) -> Version:
        """A version by its name or its number (``3`` or ``0003``).

        Raises:
            InputError: When there is none.
            ModelError: When its record is damaged.
        """
        known = self.all()
        for version in known:
            if name == version.name or (name.isascii() and name.isdigit() and int(name) == version.number):
                return version
        names = ", ".join(version.name for version in known) or "none; add one with genrank adapters add"
        raise InputError(f"no version {name!r} in {self.folder}; there are {names}", field="version")

    def current(self) -> Version | None:
        """The version that is served; None before the first promotion.

        Raises:
            ConfigError: When the link is no link to a version.
            ModelError: When its record is missing or damaged.
        """
        name = self._linked()
        return None if name is None else self._read(name)

    def history(self) -> list[Switch]:
        """Promotions and rollbacks, oldest first. A line that was cut off by a crash is left out."""
        try:
            lines = (self.folder / HISTORY).read_bytes().splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            with contextlib.suppress(pydantic.ValidationError):
                found.append(_SWITCH.validate_json(line))
        return found

    def lineage(self, name: str) -> list[Version]:
        """A version and those that it goes back to, newest first; it ends before one whose folder was deleted.

        Raises:
            InputError: When there is no such version.
            ModelError: When a record is damaged.
        """
        known = {version.name: version for version in self.all()}
        found = [self.find(name)]
        while (parent := known.get(found[-1].parent or "")) is not None and parent not in found:
            found.append(parent)
        return found

    def add(
        self,
        source: str | Path,
        *,
        parent: str | None = None,
        training: Mapping[str, Any] | None = None,
        comparison: Mapping[str, Any] | None = None,
    ) -> Version:
        """Copy an adapter into the folder as a new version; it is not served until it is promoted.

        Files that are here already, from the same parent, are not added again: so a call may be repeated.

        Args:
            source: The adapter's folder. Hidden files are left out.
            parent: Name of the version that its training went on from.
            training: What it was trained on, as JSON types.
            comparison: How it compared with the version it is to replace, as JSON types.

        Raises:
            InputError: When there is no such folder or parent, it is empty, or an adapter has no manifest.
            ModelError: When the adapter is broken.
            OSError: When it cannot be written.
        """
        root = Path(source).expanduser()
        _check_source(root)
        with self._locked():
            if parent is not None:
                parent = self.find(parent).name
            part = self.folder / f".{secrets.token_hex(8)}{_PART}"
            files = _copy(root, part)
            known = self.all()
            for version in known:
                if version.files == files and version.parent == parent:
                    shutil.rmtree(part)
                    return version
            number = max((version.number for version in known), default=0) + 1
            name = f"{number:04d}-{fingerprint(files)[:8]}"
            made = Version(name, _now(), parent, files, training or {}, comparison or {})
            (part / RECORD).write_text(json.dumps(asdict(made), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            for path in (part / RECORD, *(folder for folder in part.rglob("*") if folder.is_dir()), part):
                sync(path)
            part.rename(self.path(name))
            sync(self.folder)
        return made

    def promote(self, name: str, *, why: str = "", instead_of: str | None = None) -> Version:
        """Serve a version from now on. Nothing happens when it is served already.

        Args:
            name: Its name or number.
            why: Words for the history.
            instead_of: Name of the version that must still be the one served; None takes any.

        Raises:
            InputError: When there is no such version, or another than `instead_of` is served by now.
            ChecksumError: When a file of the version is missing or was changed.
            OSError: When it cannot be written.
        """
        with self._locked():
            version, now = self.find(name), self._linked()
            if now == version.name:
                return version
            if instead_of is not None and now != instead_of:
                raise InputError(
                    f"{version.name} was to replace {instead_of}, but {now or 'nothing'} is served by now; compare it "
                    "with that one first",
                    field="instead_of",
                )
            self._switch("promote", version, why)
            return version

    def rollback(self, *, why: str = "") -> Version:
        """Serve the version that was served before the present one was promoted; repeat it to go back further.

        Returns:
            The version that is served now.

        Raises:
            InputError: When there is nothing to go back to.
            ChecksumError: When a file of that version is missing or was changed.
            OSError: When it cannot be written.
        """
        with self._locked():
            stack = self._stack()
            if len(stack) < 2:
                raise InputError(f"{self.folder} has no version to go back to", field="rollback")
            version = self.find(stack[-2])
            self._switch("rollback", version, why)
            return version

    def check(self, version: Version) -> None:
        """Check that a version's files are those that were added.

        Raises:
            ChecksumError: Names the file that is missing or was changed.
        """
        for name, expected in version.files.items():
            file = self.path(version.name) / name
            if not file.is_file() or _hash(file, name) != expected:
                raise ChecksumError(f"{file} is missing or was changed; add the adapter again")

    def _switch(self, action: Action, version: Version, why: str) -> None:
        """Point the link at a version, then write the line: killed in between, the next writer adds it."""
        self.check(version)
        before = self._linked()
        link = self.folder / f".{secrets.token_hex(8)}{_PART}"
        link.symlink_to(version.name, target_is_directory=True)
        link.replace(self.folder / CURRENT)
        sync(self.folder)
        self._write(Switch(_now(), action, version.name, before, why))

    def _write(self, line: Switch) -> None:
        with (self.folder / HISTORY).open("ab") as file:
            # a line break first: the line before may be cut off
            file.write(b"\n" + json.dumps(asdict(line), ensure_ascii=False).encode())
            file.flush()
            os.fsync(file.fileno())

    def _stack(self) -> list[str]:
        """What a rollback goes back through, the version that is served last."""
        stack: list[str] = []
        for one in self.history():
            back = one.action == "rollback" or (one.action == "found" and one.version in stack[-2:-1])
            if back and one.version in stack[:-1]:
                stack.pop()
                while stack[-1] != one.version:
                    stack.pop()
            elif stack[-1:] != [one.version]:
                stack.append(one.version)
        return stack

    def _linked(self) -> str | None:
        link = self.folder / CURRENT
        if not link.is_symlink():
            if link.exists():
                raise ConfigError(f"{link} must be a symbolic link to a version; move it away, and promote one")
            return None
        name = str(link.readlink())
        if not _NAME.fullmatch(name) or not self.path(name).is_dir():
            raise ConfigError(f"{link} points to {name}, which is no version here; delete it, and promote one")
        return name

    def _read(self, name: str) -> Version:
        file = self.path(name) / RECORD
        try:
            found = _VERSION.validate_json(file.read_bytes())
        except (OSError, pydantic.ValidationError) as error:
            why = str(error).splitlines()[0]
            raise ModelError(f"{file} is missing or damaged ({why}); move {name} away") from None
        if found.name != name:
            raise ModelError(f"{file} is the record of {found.name}; give the folder that name")
        return found

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time. What dead writers left is removed, and the history made complete."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            for path in self.folder.glob(f".*{_PART}"):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            with contextlib.suppress(ConfigError):  # a broken link is replaced by the next promotion
                now, history = self._linked(), self.history()
                last = history[-1].version if history else None
                if now is not None and now != last:
                    self._write(Switch(_now(), "found", now, last))
            yield


def _check_source(root: Path) -> None:
    if not root.is_dir():
        raise InputError(f"no folder {root}; name the folder `adapter` of a training", field="source")
    if not (root / ADAPTER_CONFIG).exists():
        return
    check_adapter_files(root)
    if load_manifest(root) is None:
        raise InputError(
            f"{root} has no {FILE}, so it is unknown which prompt it was trained with; train it with finetune.sft in a "
            "clone of genrank",
            field="source",
        )


def _copy(root: Path, part: Path) -> dict[str, str]:
    """Copy a folder's files, but for hidden ones and a record of its own; returns their hashes."""
    files = {}
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        name = file.relative_to(root).as_posix()
        if name == RECORD or any(word.startswith(".") for word in name.split("/")):
            continue
        target = part / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
        sync(target)
        files[name] = _hash(target, name)
    if not files:
        raise InputError(f"{root} holds no file; name the folder `adapter` of a training", field="source")
    return files


def _hash(file: Path, name: str) -> str:
    if name != FILE:
        return sha256_of(file)
    return fingerprint({key: value for key, value in read_values(file).items() if key not in FITS})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
