"""What a client did wrong, or must wait for, as HTTP knows it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import pydantic

from genrank.errors import InputError, first_problem

_FIXES = {
    "missing": "give it a value",
    "int_type": "write it as a whole number",
    "string_type": "write it as text, in quotes",
    "bool_type": "write it as true or false",
    "list_type": "write it as a list",
    "datetime_from_date_parsing": "write it as ISO 8601, such as 2026-05-01T10:00:00Z",
    "unexpected_keyword_argument": "remove it; a shop's own fields go under 'attributes'",
}


class ApiError(Exception):
    """A request that is not answered with a ranking.

    Attributes:
        status: HTTP status.
        message: What is wrong, and the fix; safe to show.
        field: Path of the field, such as ``documents[3].price.amount``; empty when it concerns none.
        retry_after: Whole seconds to wait before another try; None when that would not help.
    """

    def __init__(self, status: int, message: str, *, field: str = "", retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.field = field
        self.retry_after = retry_after

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of the response."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return MappingProxyType({}) if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def invalid(field: str, message: str) -> ApiError:
    """Status 422 for a field."""
    return ApiError(422, f"{field}: {message}" if field else message, field=field)


def too_large(field: str, what: str, most: int, got: int | None = None) -> ApiError:
    """Status 413 for a field; `what` is counted."""
    found = "" if got is None else f", got {got:,}"
    return ApiError(413, f"{field}: at most {most:,} {what}{found}; send less", field=field)


def of_input(error: InputError) -> ApiError:
    """Status 422 for what genrank refused."""
    return ApiError(422, str(error), field=error.field)


def of_validation(error: pydantic.ValidationError) -> ApiError:
    """Status 422 for the first field that does not fit its schema."""
    first = error.errors(include_url=False)[0]
    path, message = first_problem([first], fixes=_FIXES)
    return invalid(path, message)
