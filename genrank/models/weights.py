"""Checks a model's folder without torch: its weights' names, shapes and fingerprint, and whether files are broken.

Only safetensors files are read (https://huggingface.co/docs/safetensors). Such a file starts with eight bytes, the
header's length in little endian; then comes the header, a JSON object that lists the tensors; then their bytes. It
holds no code. Pickles can hold code, and are refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import operator
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrank.errors import GenrankError, ModelError
from genrank.files import BLOCK, fingerprint, sha256_of
from genrank.models.store import MANIFEST, home

INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

ADAPTER_KINDS = ("LORA", "ADALORA")
"""PEFT's types of adapters that can be merged into their model; rsLoRA and DoRA are options of the first."""

_LFS = b"version https://git-lfs"
_LARGE_RANK = 1024  # of an adapter; with a smaller one PEFT finds weights of another shape cheaply
_LONGEST_POINTER = 1024  # bytes
_NAMED = 3  # how many of the keys that do not fit a message names
_SAID = 300  # how many characters of a library's error a message quotes
_LONGEST_HEADER = 100_000_000  # bytes, as safetensors itself allows
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_CHECKED_JSON = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
_MEANINGFUL = (".json", ".txt", ".jinja", ".model", ".tiktoken", ".py", ".safetensors")
"""Suffixes of the files that change a model's answers."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor in a safetensors file.

    Attributes:
        dtype: As safetensors calls it, such as ``BF16``.
        shape: Its dimensions; empty for a scalar.
        start: Offset of its first byte in the file, 0-based.
        stop: Offset after its last byte.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def is_whole(tensor: Tensor) -> bool:
    """Whether a tensor holds whole numbers or truth values."""
    return not tensor.dtype.startswith(("F", "BF", "C"))


def read_header(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name.

    Raises:
        ModelError: When the file is missing, empty, cut off, a Git LFS pointer, or not a safetensors file.
    """
    with _readable(file), file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        head = stream.read(len(_LFS))
        if not head:
            raise ModelError(f"{file} is empty; download it again")
        if head.startswith(_LFS):
            raise ModelError(f"{file} is a Git LFS pointer, not the weights; get them with: git lfs pull")
        length = int.from_bytes(head[:8], "little")
        if len(head) < 8 or length > _LONGEST_HEADER or head[8:9] not in (b"{", b""):
            raise ModelError(f"{file} is not a safetensors file (it begins with {head[:16]!r}); download it again")
        if 8 + length > size:
            raise ModelError(f"{file} is cut off: {size} bytes, its header alone has {length}; download it again")
        stream.seek(8)
        try:
            tensors = _tensors(json.loads(stream.read(length)), 8 + length)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise ModelError(f"{file} is not a safetensors file: its header is broken; download it again") from None
    stop = max((tensor.stop for tensor in tensors.values()), default=8 + length)
    if stop > size:
        raise ModelError(f"{file} is cut off: {size} bytes of {stop}; download it again")
    if not tensors:
        raise ModelError(f"{file} holds no tensor; download it again")
    return tensors


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold a model's weights: those in the index, or ``model.safetensors``, or else all.

    Raises:
        ModelError: When there are none or only pickles, or the index is broken or names a missing file.
    """
    if (folder / INDEX).is_file():
        try:
            named = set(_read_json(folder / INDEX)["weight_map"].values())
            shards = sorted(folder / name for name in named)
        except (KeyError, TypeError, AttributeError):
            raise ModelError(f"{folder / INDEX} has no weight_map from tensors to files; download it again") from None
        missing = [shard.name for shard in shards if not shard.is_file()]
        if missing:
            raise ModelError(
                f"{folder / INDEX} names {len(missing)} of {len(shards)} files that are missing, such as {missing[0]}; "
                "download them too"
            )
        whole = folder / "model.safetensors"
        if shards and whole.is_file() and whole not in shards:
            raise ModelError(
                f"{folder} holds both {whole.name} and {INDEX}, which names other files; delete those that are not "
                "the model"
            )
        if shards:
            return shards
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    # an adapter may be in the same folder
    found = sorted(path for path in folder.glob("*.safetensors") if path.name != ADAPTER_WEIGHTS)
    if found:
        return found
    if pickles := sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern)):
        raise ModelError(
            f"{folder} holds its weights only as pickles ({pickles[0]}), which can run code when they are read; save "
            "them as model.safetensors (in transformers: save_pretrained)"
        )
    if other := sorted(path.name for path in folder.glob("*.gguf")):
        raise ModelError(
            f"{folder} holds its weights only as GGUF ({other[0]}); take the same model as model.safetensors"
        )
    raise ModelError(f"{folder} holds no weights: no model.safetensors; copy it there, or name another folder")


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model by name; offsets are within each tensor's own file.

    Raises:
        ModelError: As in `weight_files` and `read_header`.
    """
    return {name: tensor for file in weight_files(folder) for name, tensor in read_header(file).items()}


def check_files(folder: Path, *, weights: bool = True) -> dict[str, Any]:
    """Check a model's folder for broken files before a library reads them.

    Args:
        folder: The model's folder.
        weights: Whether to check the weights, not only the tokenizer's and the configuration's files.

    Returns:
        The content of ``config.json``.

    Raises:
        ModelError: Names the first file that is broken, and the fix.
    """
    config: dict[str, Any] = {}
    for name in _CHECKED_JSON:
        if name == "config.json" or (folder / name).is_file():
            values = _read_json(folder / name)
            config = values if name == "config.json" else config
    _check_ends(folder / "tokenizer.json")
    _check_texts(folder)
    if weights:
        if config.get("transformers_weights"):
            raise ModelError(
                f"{folder / 'config.json'}: transformers_weights names other weights than model.safetensors, which "
                "cannot be checked; leave it out, and give the weights their usual name"
            )
        tensors = read_tensors(folder)
        for part in (config, *(value for value in config.values() if isinstance(value, dict))):
            layers = part.get("num_hidden_layers")
            if isinstance(layers, int | float) and layers > len(tensors):
                raise ModelError(
                    f"{folder / 'config.json'}: num_hidden_layers is {layers}, and the weights have {len(tensors)} "
                    "tensors in all; use the config.json that belongs to them"
                )
    return config


def check_adapter_files(folder: Path, kinds: Sequence[str] = ADAPTER_KINDS) -> dict[str, Any]:
    """Check an adapter's folder for broken files before PEFT reads them.

    Args:
        folder: The adapter's folder.
        kinds: The types of PEFT adapters to accept.

    Returns:
        The content of ``adapter_config.json``.

    Raises:
        ModelError: Names the file or the key that is missing or broken, and the fix.
    """
    file = folder / ADAPTER_CONFIG
    if not file.is_file():
        raise ModelError(f"{folder} holds no adapter: no {ADAPTER_CONFIG}; name the folder that PEFT saved")
    config = _read_json(file)
    if (kind := config.get("peft_type")) not in kinds:
        raise ModelError(f"{file}: peft_type is {kind!r}; only {', '.join(kinds)} can be used here")
    missing = [key for key in ("r", "lora_alpha", "target_modules") if key not in config]
    if missing:
        raise ModelError(f"{file}: {', '.join(missing)} missing; save the adapter again with PEFT")
    if type(config["r"]) is not int or config["r"] < 1:
        raise ModelError(f"{file}: r must be a whole number of at least 1, got {config['r']!r}")
    alpha = config["lora_alpha"]
    if type(alpha) not in (int, float) or not alpha or not math.isfinite(alpha):
        raise ModelError(f"{file}: lora_alpha must be a number other than 0, got {alpha!r}")
    if not (folder / ADAPTER_WEIGHTS).is_file():
        why = f"no {ADAPTER_WEIGHTS}; name the folder that PEFT saved"
        if (folder / "adapter_model.bin").is_file():
            why = (
                "its weights only as a pickle (adapter_model.bin), which can run code when it is read; save them as "
                f"{ADAPTER_WEIGHTS} (in PEFT: save_pretrained)"
            )
        raise ModelError(f"{folder} holds {why}")
    longest = max(size for tensor in read_header(folder / ADAPTER_WEIGHTS).values() for size in (0, *tensor.shape))
    patterns = config.get("rank_pattern")
    ranks = [config["r"], config.get("init_r"), *(patterns.values() if isinstance(patterns, dict) else ())]
    if large := [rank for rank in ranks if isinstance(rank, int) and rank > max(longest, _LARGE_RANK)]:
        raise ModelError(
            f"{file}: a rank of {large[0]}, and no weight is longer than {longest}; take the configuration that "
            f"belongs to {ADAPTER_WEIGHTS}"
        )
    return config


@contextlib.contextmanager
def reading(what: str | Path) -> Iterator[None]:
    """Turn whatever a library raises while it reads a folder into a `ModelError` of one line.

    Args:
        what: The file or folder being read, for the message.
    """
    try:
        yield
    except GenrankError:
        raise
    except Exception as error:  # the libraries let all kinds of errors through
        said = " ".join(str(error).split())
        if "trust_remote_code" in said:
            raise ModelError(
                f"{what} can only be loaded by running code of its own, which genrank does not do unless you pass "
                "trust_remote_code=True (on the command line: --trust-remote-code); read that code first"
            ) from error
        raise ModelError(
            f"{what} cannot be loaded ({type(error).__name__}: {said[:_SAID]}); correct it, or download it again"
        ) from error


def named(keys: Collection[str]) -> str:
    """The number of keys, and the first few of them."""
    first = ", ".join(sorted(keys)[:_NAMED])
    return f"{len(keys)} ({first}{', ...' if len(keys) > _NAMED else ''})"


def weights_fingerprint(folder: str | Path) -> str:
    """SHA-256 of a model's weights: each tensor's name, dtype, shape and bytes.

    It does not depend on how the weights are split into files, on the files' names, metadata and dates, or on any other
    file. Hashing takes a few seconds for each gigabyte; the result is cached in ``home()/fingerprints``, by the files'
    paths, sizes and times.

    Args:
        folder: The model's folder.

    Raises:
        ModelError: As in `weight_files` and `read_header`.
    """
    files = weight_files(Path(folder))
    with _readable(Path(folder)):
        states = [(str(file.resolve()), file.stat()) for file in files]
    state = [(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino) for path, stat in states]
    kept = home() / "fingerprints" / fingerprint(state)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        known = kept.read_text(encoding="ascii")
        if len(known) == 64:
            return known
    digests = {name: digest for file in files for name, digest in _digests(file)}
    found = fingerprint(sorted(digests.items()))
    with contextlib.suppress(OSError):  # without a cache it only takes longer
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_name(f".{kept.name}.{os.getpid()}.part")
        part.write_text(found, encoding="ascii")
        part.replace(kept)
    return found


def model_fingerprint(folder: str | Path) -> str:
    """SHA-256 of everything that a model's answers depend on: weights, configuration, tokenizer and chat template.

    It does not depend on dates: genrank's own manifest, READMEs and hidden files are left out.

    Args:
        folder: The model's folder.

    Raises:
        ModelError: When a file is broken or cannot be read.
    """
    root = Path(folder)
    with _readable(root):
        paths = [path for path in root.rglob("*") if path.is_file() and path.suffix in _MEANINGFUL]
        names = sorted(path.relative_to(root).as_posix() for path in paths)
        weights = set(weight_files(root))
        shown = [name for name in names if root / name not in weights and not _is_left_out(name)]
        beside = [(name, sha256_of(root / name)) for name in shown]
    return fingerprint([weights_fingerprint(root), beside])


def _is_left_out(name: str) -> bool:
    *folders, file = name.split("/")
    hidden = any(part.startswith(".") for part in (*folders, file))
    return hidden or file in (MANIFEST, INDEX) or file.lower().startswith(("readme", "license", "notice"))


def _digests(file: Path) -> Iterator[tuple[str, tuple[str, Sequence[int], str]]]:
    """Name, dtype, shape and SHA-256 of each tensor."""
    tensors = read_header(file)
    with _readable(file), file.open("rb") as stream:
        for name, tensor in sorted(tensors.items(), key=lambda item: item[1].start):
            digest = hashlib.sha256()
            stream.seek(tensor.start)
            left = tensor.stop - tensor.start
            while left and (block := stream.read(min(left, BLOCK))):
                digest.update(block)
                left -= len(block)
            yield name, (tensor.dtype, tensor.shape, digest.hexdigest())


def _tensors(header: Mapping[str, Any], begin: int) -> dict[str, Tensor]:
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, stop = (operator.index(place) for place in entry["data_offsets"])
            shape = tuple(operator.index(size) for size in entry["shape"])
            if not 0 <= start <= stop:
                raise ValueError(name)
            found[name] = Tensor(str(entry["dtype"]), shape, begin + start, begin + stop)
    return found


def _check_ends(file: Path) -> None:
    """Check both ends of a JSON file that may be large; it may be missing, since there are other tokenizer formats."""
    if not file.is_file():
        return
    with _readable(file), file.open("rb") as stream:
        head = stream.read(64)
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - 64))
        tail = stream.read()
    if head.startswith(_LFS):
        raise ModelError(f"{file} is a Git LFS pointer; get the file with: git lfs pull")
    if not head.lstrip().startswith(b"{") or not tail.rstrip().endswith(b"}"):
        raise ModelError(f"{file} is not a whole JSON object: it is cut off, or another file; download it again")


def _check_texts(folder: Path) -> None:
    """Look for pointers of Git LFS in the place of files, and for chat templates that are no text."""
    with _readable(folder):
        files = sorted(path for path in folder.iterdir() if path.suffix in _MEANINGFUL and path.is_file())
    for file in files:
        if file.suffix == ".jinja" or file.stat().st_size < _LONGEST_POINTER:
            with _readable(file):
                data = file.read_bytes()
            if data.startswith(_LFS):
                raise ModelError(f"{file} is a Git LFS pointer; get the file with: git lfs pull")
            if file.suffix == ".jinja":
                try:
                    data.decode()
                except UnicodeDecodeError:
                    raise ModelError(f"{file} is no UTF-8 text; save it as UTF-8") from None


def _read_json(file: Path) -> dict[str, Any]:
    """The JSON object of a file."""
    with _readable(file):
        try:
            data = file.read_bytes()
            values = json.loads(data)
        except (ValueError, RecursionError):
            if data.startswith(_LFS):
                raise ModelError(f"{file} is a Git LFS pointer; get the file with: git lfs pull") from None
            raise ModelError(f"{file} is not JSON; download it again, or correct it") from None
    if not isinstance(values, dict):
        raise ModelError(f"{file}: must hold a JSON object, got {type(values).__name__}; download it again")
    return values


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ModelError(f"{error.filename or path} cannot be read: {error.strerror or error}") from None
