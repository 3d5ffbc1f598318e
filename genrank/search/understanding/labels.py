"""Labelled queries: what each asks for, in the catalogue's words. They are examples, training data and measurements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pydantic

from genrank.data.jsonl import read_jsonl
from genrank.errors import DataFormatError, InputError, first_problem
from genrank.types import FIELD_FIXES

FILE = "intents.jsonl"
"""Where a dataset folder has its labels."""


@dataclass(frozen=True, slots=True)
class LabelledQuery:
    """A query and what it asks for; what it does not say is left out.

    Attributes:
        query: What was typed.
        categories: Paths, any of which is right, and so is any below one.
        attributes: By name.
    """

    query: str
    categories: tuple[tuple[str, ...], ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> LabelledQuery:
        """Make one from a label line that has the ``query`` itself.

        Raises:
            InputError: When a field is wrong or missing, or unknown.
        """
        try:
            found = _Fields.model_validate(dict(fields))
        except pydantic.ValidationError as error:
            path, message = first_problem(error.errors(include_url=False), fixes=FIELD_FIXES)
            raise InputError(message, field=path) from None
        return cls(found.query, found.categories, found.attributes)


class _Fields(pydantic.BaseModel, extra="forbid"):
    """A label line; what is not asked of a model is only checked."""

    query: Annotated[str, pydantic.Field(min_length=1)]
    query_id: str = ""
    categories: tuple[tuple[str, ...], ...] = ()
    attributes: dict[str, str] = {}
    brand: str = ""
    least_price: float | None = None
    most_price: float | None = None
    excluded: tuple[str, ...] = ()
    corrected: str = ""


def read_labels(path: str | Path) -> dict[str, dict[str, Any]]:
    """The label lines of a file by query id.

    Raises:
        DataFormatError: When a line is broken or has no ``query_id``, or one comes twice.
    """
    labels: dict[str, dict[str, Any]] = {}
    for number, line in read_jsonl(path):
        if isinstance(line, DataFormatError):
            raise line
        query_id = line.get("query_id") if isinstance(line, dict) else None
        if not isinstance(query_id, str) or query_id in labels:
            raise DataFormatError(str(path), number, "a query_id that no line before has", repr(query_id))
        labels[query_id] = line
    return labels


def labelled_queries(
    labels: Mapping[str, Mapping[str, Any]], texts: Iterable[tuple[str, str]]
) -> dict[str, LabelledQuery]:
    """Queries with their labels, by id; queries without one, and all but the first of the same text, are left out.

    Args:
        labels: From `read_labels`.
        texts: The ids and texts of queries.

    Raises:
        InputError: When a label is wrong.
    """
    found: dict[str, LabelledQuery] = {}
    seen = set()
    for query_id, text in texts:
        if query_id in labels and text not in seen:
            found[query_id] = LabelledQuery.from_dict({**labels[query_id], "query": text})
            seen.add(text)
    return found
