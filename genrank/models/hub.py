"""Gets models and adapters from the Hugging Face hub."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from genrank.errors import (
    ChecksumError,
    DownloadError,
    MissingExtraError,
    ModelError,
    ModelNotFoundError,
)
from genrank.files import sha256_of
from genrank.models.registry import ModelSpec
from genrank.progress import Progress

HUB_SECONDS = 5  # how long the hub may take to answer whether it has the model
HUB_FILES = (
    "*.json", "*.safetensors", "*.jinja", "*.txt", "1_Pooling/*", "tokenizer*", "*.model", "*.tiktoken",
)  # fmt: skip
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "genrank.json")
HUB_IGNORED = ("onnx/*", "openvino/*", "original/*")  # other formats of the same weights
_OFFLINE_VALUES = {"1", "ON", "YES", "TRUE"}  # of HF_HUB_OFFLINE, as huggingface_hub reads it


def from_hub(spec: ModelSpec, staging: Path, report: Progress) -> tuple[str, str]:
    """Copy a known model's files into `staging`; return the source and its revision."""
    snapshot = hub_snapshot(spec.hub, spec.revision, report)
    weights = snapshot / "model.safetensors"
    if spec.hub_sha256 and (not weights.is_file() or sha256_of(weights) != spec.hub_sha256):
        raise ChecksumError(f"{weights}: SHA-256 differs from the expected one; delete the file and fetch again")
    # the user's hub cache may also hold other formats of the model
    for path in sorted(found for found in snapshot.rglob("*") if found.is_file()):
        file = path.relative_to(snapshot).as_posix()
        if _matches(file, HUB_FILES) and not _matches(file, HUB_IGNORED):
            (staging / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, staging / file)
    return f"hub {spec.hub}", spec.revision


def _matches(file: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(file, pattern) for pattern in patterns)


def hub_adapter(repository: str, report: Progress) -> Path:
    """The folder of a PEFT adapter in the local hub cache, downloaded if it is not there.

    Raises:
        ModelError: As in `hub_snapshot`.
    """
    return hub_snapshot(repository, "main", report, files=ADAPTER_FILES, lacks=_adapter_lacks)


def _adapter_lacks(folder: Path) -> str:
    return "" if (folder / ADAPTER_FILES[0]).is_file() else ADAPTER_FILES[0]


def _model_lacks(folder: Path) -> str:
    """The files missing from a folder for transformers to load it; empty if none."""
    if not (folder / "config.json").is_file():
        return "config.json"
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            return ", ".join(sorted(shard for shard in shards if not (folder / shard).is_file()))
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"{index.name} that can be read"
    return "" if any(folder.glob("*.safetensors")) else "*.safetensors"


def hub_snapshot(
    repository: str,
    revision: str,
    report: Progress,
    *,
    files: Sequence[str] = HUB_FILES,
    lacks: Callable[[Path], str] = _model_lacks,
) -> Path:
    """The folder of a repository in the local hub cache, downloaded if it is not there.

    Args:
        repository: Its name, ``owner/name``.
        revision: Commit, branch or tag.
        report: Receives the progress.
        files: Patterns of the files to download.
        lacks: Names the files still missing from a folder; empty if none.

    Raises:
        MissingExtraError: When huggingface_hub is not installed.
        ModelNotFoundError: When the hub has no such repository.
        DownloadError: When the hub cannot be reached or refuses access.
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
            allow_patterns=list(files),
            ignore_patterns=list(HUB_IGNORED),
            local_files_only=local,
            etag_timeout=HUB_SECONDS,
            tqdm_class=bars,
        )
        return Path(folder)

    try:
        with contextlib.suppress(LocalEntryNotFoundError):
            folder = snapshot(local=True)
            if not lacks(folder):
                return folder
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in _OFFLINE_VALUES:
            raise DownloadError("not in the local hub cache, and HF_HUB_OFFLINE forbids asking the hub")
        report.start(f"asking the hub for {repository}", None)
        # snapshot_download has no timeout for its first request and waits minutes for a hub that never answers
        info = hub.HfApi().model_info(repository, revision=revision, timeout=HUB_SECONDS, files_metadata=True)
        wanted = [
            file.size or 0
            for file in info.siblings or ()
            if _matches(file.rfilename, files) and not _matches(file.rfilename, HUB_IGNORED)
        ]
        report.start(f"downloading {repository} from the hub", sum(wanted) or None)
        folder = snapshot(local=False)
        if missing := lacks(folder):
            raise DownloadError(f"the hub's {repository} has no {missing}")
        return folder
    except ModelError:
        raise
    except Exception as error:  # the client raises its own errors, those of its HTTP library, and OSError
        _raise_hub_error(repository, error)


def _hub_bars(report: Progress) -> type[Any]:
    """A tqdm class for the hub's client that draws nothing and passes on the byte counts."""
    from tqdm.auto import tqdm

    class Bars(tqdm):  # type: ignore[type-arg, misc, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # there are bars for files, for bytes downloaded and for bytes written; only the second kind counts
            self._counts = kwargs.get("unit") == "B" and str(kwargs.get("desc", "")).startswith("Downloading")
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            if self._counts and n:
                report.advance(int(n))
            return None

    return Bars


def _raise_hub_error(repository: str, error: Exception) -> NoReturn:
    """Turn an error of the hub's client into a `ModelError` of one line."""
    from huggingface_hub import errors

    first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    if isinstance(error, errors.GatedRepoError):
        raise DownloadError(
            f"gated; accept its terms at https://huggingface.co/{repository} and log in with: hf auth login"
        ) from error
    if isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError | errors.HFValidationError):
        raise ModelNotFoundError(f"the Hugging Face hub knows no such repository, or it is private: {first}") from error
    raise DownloadError(f"the Hugging Face hub does not answer ({type(error).__name__}: {first})") from error
