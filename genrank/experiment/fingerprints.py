"""Hashes of what an answer depends on: the requests, and the code that ranks."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

from genrank.data.jsonl import dump_line, request_fields
from genrank.files import fingerprint, sha256_of
from genrank.types import Request

_LIBRARY = Path(__file__).resolve().parents[1]


def requests_fingerprint(requests: Iterable[Request]) -> str:
    """SHA-256 of requests: queries, histories, candidates and their order."""
    total = hashlib.sha256()
    for request in requests:
        total.update(dump_line(request_fields(request)).encode())
    return total.hexdigest()


@functools.cache
def code_fingerprint(*programs: Path) -> str:
    """SHA-256 of the library's code and that of some programs, since an answer may depend on it."""
    files = [(path.relative_to(_LIBRARY).as_posix(), path) for path in sorted(_LIBRARY.rglob("*.py"))]
    return fingerprint([(name, sha256_of(path)) for name, path in (*files, *((one.name, one) for one in programs))])
