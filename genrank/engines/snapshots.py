"""Kept heads (`genrank.engines.heads`) in a file, which the operating system pages in where it is read.

The file is in the safetensors format: ``rows`` holds the keys and values of all heads, one after the other, ``leads``
those of the leads, ``ids`` the tokens of both, and ``index`` where each begins. Its metadata say what the keys and
values depend on. Each head has a checksum, which is checked when it is first read, so that a damaged file gives an
error and no wrong score.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from genrank.engines.heads import Head, key_of
from genrank.errors import ConfigError, DataFormatError, EngineError, MissingExtraError

try:
    import torch
    from safetensors import SafetensorError, safe_open
except ImportError as _error:
    raise MissingExtraError(_error.name or "safetensors", "transformers") from None

FORMAT = "genrank snapshot 1"

_HEADER = 4096  # bytes; room for the header, which is written last
_DTYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.int8: "I8"}
_DTYPES |= {torch.int32: "I32", torch.int64: "I64"}
_WHAT = "a snapshot of genrank's, as warm wrote it (delete it, and warm again)"


def differs(path: str | Path, bound: Mapping[str, str]) -> list[str]:
    """What the snapshot at `path` was made with that is not as in `bound`; empty when it fits.

    Raises:
        DataFormatError: When the file is not a whole snapshot.
    """
    with _opened(Path(path)) as file:
        made = _metadata(Path(path), file)
    return [name for name in bound if made.get(name) != bound[name]]


class Snapshot:
    """Heads in a file.

    Args:
        path: The file.
        bound: What the keys and values depend on, by name; the file must have been made with the same.

    Attributes:
        path: See above.

    Raises:
        ConfigError: When it was made with something else; names it.
        DataFormatError: When the file is not a whole snapshot.
    """

    def __init__(self, path: str | Path, bound: Mapping[str, str]) -> None:
        self.path: Path = Path(path)
        if wrong := differs(path, bound):
            raise ConfigError(
                f"the snapshot {path} was made with another {', '.join(wrong)}, so its keys and values are of no use "
                "here; warm again with this one, or name the snapshot that belongs to it"
            )
        with _opened(self.path) as file:
            made = _metadata(self.path, file)
            self._rows, leads = file.get_tensor("rows"), file.get_tensor("leads")  # mapped, not read
            ids, index = file.get_tensor("ids"), file.get_tensor("index")
        if made.get("check") != _check(ids, index):
            raise DataFormatError(str(path), 0, _WHAT, "an index that does not fit its checksum")
        data = ids.numpy().tobytes()
        width = ids.element_size()
        self._leads: dict[bytes, torch.Tensor] = {}  # leads, by their tokens
        self._places: dict[bytes, tuple[int, int, int, int, int]] = {}
        self._openings = dict[bytes, tuple[int, ...]]()
        at, row, lead_row = 0, 0, 0
        for lead, tokens, opening, check in index.tolist():
            key = data[at * width : (at + tokens) * width]
            more = tuple(ids[at + tokens : at + tokens + opening].tolist()) if opening else ()
            at += tokens + opening
            if lead < 0:  # an entry of a lead
                self._leads[key] = leads[lead_row : lead_row + tokens]
                if checksum(self._leads[key]) != check:
                    raise DataFormatError(str(path), 0, _WHAT, "keys and values that do not fit their checksum")
                lead_row += tokens
            else:
                stop = row + tokens - lead + opening
                self._places[key] = (row, stop, lead, tokens, check)
                self._openings[key] = more
                row = stop
        self._checked: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._places)

    def keys(self) -> list[bytes]:
        """The heads' tokens, see `genrank.engines.heads.key_of`."""
        return list(self._places)

    def leads(self) -> Mapping[bytes, torch.Tensor]:
        """``[tokens, row]`` keys and values of the leads, by their tokens."""
        return self._leads

    def find(self, key: bytes) -> Head | None:
        """A head by its tokens; None if it is not in the file.

        Raises:
            EngineError: When the file is damaged.
        """
        return self.head(key) if key in self._places else None

    def head(self, key: bytes) -> Head:
        """A head of the file by its tokens.

        Raises:
            EngineError: When the file is damaged.
        """
        start, stop, lead, tokens, check = self._places[key]
        rest = self._rows[start:stop]
        if key not in self._checked:
            if checksum(rest) != check:
                raise EngineError(f"the snapshot {self.path} is damaged; delete it, and warm again")
            self._checked.add(key)
        return Head(self._leads[key[: lead * 4]] if lead else None, rest, tokens, self._openings[key])


class SnapshotWriter:
    """Writes a snapshot, head by head; ``with SnapshotWriter(path, bound) as writer:``.

    Args:
        path: A new, empty file.
        bound: What the keys and values depend on, by name.

    Attributes:
        written: The heads that were added, by their tokens.
    """

    def __init__(self, path: Path, bound: Mapping[str, str]) -> None:
        self.written: set[bytes] = set()
        self._bound = bound
        self._file = path.open("wb")
        self._file.seek(_HEADER)
        self._index: list[tuple[int, int, int, int]] = []
        self._ids: list[bytes] = []
        self._leads: dict[bytes, torch.Tensor] = {}
        self._rows: torch.Tensor | None = None  # without any, for the dtype and the width
        self._tokens = 0

    def add(self, key: bytes, head: Head) -> None:
        """Add a head; one that was added before is left as it is.

        Raises:
            OSError: When it cannot be written.
        """
        if key in self.written:
            return
        self.written.add(key)
        lead = 0
        if head.lead is not None:
            lead = len(head.lead)
            self._leads.setdefault(key[: lead * 4], head.lead)
        self._rows = head.rest[:0]
        self._file.write(_bytes(head.rest))
        self._tokens += len(head.rest)
        self._index.append((lead, head.tokens, len(head.opening), checksum(head.rest)))
        self._ids.append(key + key_of(head.opening))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._file.close()

    def _finish(self) -> None:
        rows = self._rows if self._rows is not None else torch.empty((0, 0))
        leads = torch.cat(list(self._leads.values())) if self._leads else rows
        ids = b"".join([*self._ids, *self._leads])
        index = [*self._index, *((-1, len(key) // 4, 0, checksum(lead)) for key, lead in self._leads.items())]
        place = self._tokens * rows.shape[1] * rows.element_size()
        ids += bytes(-(place + leads.nbytes + len(ids)) % 8 or 8)  # the index begins at a multiple of 8 bytes
        tensors = {
            "leads": leads,
            "ids": torch.frombuffer(bytearray(ids), dtype=torch.int32),
            "index": torch.tensor(index, dtype=torch.int64).view(-1, 4),
        }
        made = {"format": FORMAT, "check": _check(tensors["ids"], tensors["index"])}
        header: dict[str, Any] = {"__metadata__": dict(self._bound) | made}
        shape = [self._tokens, rows.shape[1]]
        header["rows"] = {"dtype": _DTYPES[rows.dtype], "shape": shape, "data_offsets": [0, place]}
        for name, tensor in tensors.items():
            self._file.write(_bytes(tensor))
            offsets = [place, place := place + tensor.nbytes]
            header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        text = json.dumps(header).encode().ljust(_HEADER - 8)
        self._file.seek(0)
        self._file.write(len(text).to_bytes(8, "little") + text)


def checksum(rows: torch.Tensor) -> int:
    """CRC-32 of a tensor's bytes."""
    return zlib.crc32(_bytes(rows))


def _bytes(tensor: torch.Tensor) -> memoryview:
    data: Any = tensor.cpu().reshape(-1).view(torch.uint8).numpy()
    return memoryview(data)


def _check(ids: torch.Tensor, index: torch.Tensor) -> str:
    return f"{checksum(ids):08x}{checksum(index):08x}"


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except FileNotFoundError:
        raise ConfigError(f"there is no snapshot {path}; write it with Reranker.warm or genrank warm") from None
    except (SafetensorError, OSError) as error:
        raise DataFormatError(str(path), 0, _WHAT, f"a file that cannot be read ({error})") from None


def _metadata(path: Path, file: Any) -> dict[str, str]:
    made: dict[str, str] = file.metadata() or {}
    if made.get("format") != FORMAT or set(file.keys()) != {"rows", "leads", "ids", "index"}:
        raise DataFormatError(str(path), 0, _WHAT, f"the format {made.get('format')!r}")
    return made
