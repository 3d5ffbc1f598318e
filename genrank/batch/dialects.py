"""What the rows of a job look like, and what is written for them: request lines and ranking lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from genrank.batch.sources import Row
from genrank.errors import DataFormatError, InputError
from genrank.inputs import parse_request
from genrank.types import Ranking, Request


@dataclass(frozen=True, slots=True)
class Asked:
    """What a row asks for.

    Attributes:
        request: The request; None when there is nothing to rank.
        top_k: See `genrank.Reranker.rerank`.
        reasons: See `genrank.Reranker.rerank`.
        context: Whatever the dialect needs to write the answer.
    """

    request: Request | None
    top_k: int | None = None
    reasons: int = 0
    context: Any = None


class Dialect(Protocol):
    """A format of rows and answers. Row ids and keys are texts; a row without an id is known by its place."""

    def row_id(self, row: Row) -> str:
        """A row's id; empty when it has none."""

    def key_of(self, line: Mapping[str, Any]) -> str | None:
        """The key of a written answer or failure; None when it is neither."""

    def read(self, row: Row) -> Asked:
        """What a row asks for.

        Raises:
            DataFormatError: When it cannot be read.
            InputError: When a field is wrong.
        """

    def answer(self, row: Row, asked: Asked, ranking: Ranking | None) -> dict[str, Any]:
        """The line to write for a ranking; `ranking` is None when there was nothing to rank."""

    def failure(self, row: Row, reason: str) -> dict[str, Any]:
        """The line to write for a row that has no answer."""


def key(row_id: str, label: str) -> str:
    """What a row is known by: its id, or else its place."""
    return f"id:{row_id}" if row_id else f"row:{label}"


class Requests:
    """Request lines in, ranking lines out; see `genrank.data.jsonl`.

    Args:
        top_k: See `genrank.Reranker.rerank`.
        reasons: See `genrank.Reranker.rerank`.
    """

    def __init__(self, *, top_k: int | None = None, reasons: int = 0) -> None:
        self._top_k = top_k
        self._reasons = reasons

    def row_id(self, row: Row) -> str:
        """See `Dialect`."""
        return text_field(row.value, "query_id")

    def key_of(self, line: Mapping[str, Any]) -> str | None:
        """See `Dialect`."""
        row_id, label = text_field(line, "query_id"), text_field(line, "row")
        return key(row_id, label) if row_id or label else None

    def read(self, row: Row) -> Asked:
        """See `Dialect`."""
        if isinstance(row.value, DataFormatError):
            raise row.value
        try:
            return Asked(parse_request(row.value), self._top_k, self._reasons)
        except RecursionError:
            raise InputError("JSON nested too deeply") from None

    def answer(self, row: Row, asked: Asked, ranking: Ranking | None) -> dict[str, Any]:  # noqa: ARG002 - Dialect's
        """See `Dialect`."""
        if ranking is None:
            raise TypeError("a request line always has candidates")
        return ({} if ranking.query_id else {"row": row.label}) | ranking.to_dict()

    def failure(self, row: Row, reason: str) -> dict[str, Any]:
        """See `Dialect`."""
        return {"query_id": self.row_id(row), "row": row.label, "reason": reason}


def text_field(value: object, name: str) -> str:
    """A field of an object that is text; empty when there is none."""
    found = value.get(name) if isinstance(value, Mapping) else None
    return found if isinstance(found, str) else ""
