"""Converts what a caller passes into checked types.

A wrong value raises `InputError` with the field's full path, such as ``candidates[3].price.amount``.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import pydantic

from genrank.errors import InputError, first_problem, shown
from genrank.text.language import Language, language
from genrank.types import (
    FIELD_FIXES,
    Candidate,
    Guess,
    Intent,
    Interaction,
    Listing,
    Query,
    Request,
    make_interaction,
    make_listing,
)

_REQUEST_FIELDS = ("query_id", "query", "history", "candidates", "intent")


def make_query(value: Query | str) -> Query:
    """Make a query from a `Query` or its text.

    Raises:
        InputError: When it is neither, or the text is blank.
    """
    if isinstance(value, Query):
        return value
    if not isinstance(value, str):
        raise InputError(f"must be a Query or text, got {type(value).__name__}", field="query")
    with at("query"):
        return Query(value)


def parse_request(fields: object) -> Request:
    """Make a request from a parsed request line.

    Raises:
        InputError: When a field is wrong; `field` holds its path.
    """
    if not isinstance(fields, dict):
        raise InputError(f"a request is an object with {', '.join(_REQUEST_FIELDS)}; got {type(fields).__name__}")
    for key in fields:
        if key not in _REQUEST_FIELDS:
            raise InputError(f"unknown field; a request has {', '.join(_REQUEST_FIELDS)}", field=key)
    for key in ("query", "candidates"):
        if fields.get(key) is None:
            raise InputError("this field is required; give it a value", field=key)
    query_id, history = fields.get("query_id"), fields.get("history")
    with at("query"):
        query = Query(fields["query"], query_id="" if query_id is None else query_id)
    candidates, past = make_candidates(fields["candidates"]), make_history(() if history is None else history)
    return Request(query, candidates, past, make_intent(fields.get("intent"), query))


def make_candidates(values: object) -> tuple[Candidate, ...]:
    """Make candidates from a list of `Candidate`, `Listing`, dict or title text.

    A plain text is a title; its listing id is its position in the list, 0-based.

    Raises:
        InputError: When it is not a list, or a field is wrong.
    """
    candidates = []
    for i, value in enumerate(items(values, "candidates", "candidates")):
        with at(f"candidates[{i}]"):
            candidates.append(_make_candidate(i, value))
    return tuple(candidates)


def make_request(query: Query | str, candidates: object, history: object, intent: object = None) -> Request:
    """Make a request from what a caller of `genrank.Reranker.rerank` passes.

    Raises:
        InputError: When a part of it is wrong; `field` holds its path.
    """
    asked = make_query(query)
    return Request(asked, make_candidates(candidates), make_history(history), make_intent(intent, asked))


def make_intent(value: object, query: Query) -> Intent | None:
    """Make an intent from an `Intent` or what `Intent.to_dict` returns; None for None.

    Every field of the dict may be left out: the query's text and language then come from the query, and a confidence is
    1.

    Args:
        value: The intent.
        query: Whose intent it is.

    Raises:
        InputError: When it is something else, or a field is wrong.
    """
    if value is None or isinstance(value, Intent):
        return value
    if not isinstance(value, Mapping):
        raise InputError(f"must be an Intent or dict, got {type(value).__name__}", field="intent")
    try:
        fields = _IntentFields.model_validate({name: part for name, part in value.items() if part is not None})
    except pydantic.ValidationError as error:
        path, message = first_problem(error.errors(include_url=False), fixes=FIELD_FIXES)
        raise InputError(message, field=f"intent.{path}") from None
    text = fields.query or query.text
    return Intent(
        query=text,
        language=fields.language or language(text),
        corrected=fields.corrected or text,
        categories=tuple(Guess(one.path, one.confidence) for one in fields.categories),
        brand=Guess(fields.brand.name, fields.brand.confidence) if fields.brand else None,
        attributes={name: Guess(one.value, one.confidence) for name, one in fields.attributes.items()},
        least_price=fields.price.least,
        most_price=fields.price.most,
        currency=fields.price.currency,
        excluded=fields.excluded,
        source=fields.source,
        why=fields.why,
    )


class _Fields(pydantic.BaseModel, extra="forbid", allow_inf_nan=False):
    """An object of JSON."""


class _Guessed(_Fields):
    confidence: float = pydantic.Field(default=1.0, ge=0, le=1)


class _CategoryFields(_Guessed):
    path: tuple[str, ...] = pydantic.Field(min_length=1)


class _BrandFields(_Guessed):
    name: str


class _ValueFields(_Guessed):
    value: str


class _PriceFields(_Fields):
    least: float | None = pydantic.Field(default=None, ge=0)
    most: float | None = pydantic.Field(default=None, ge=0)
    currency: str = ""


class _IntentFields(_Fields):
    """An intent as `Intent.to_dict` writes it."""

    query: str = ""
    language: Language | None = None
    corrected: str = ""
    categories: tuple[_CategoryFields, ...] = ()
    brand: _BrandFields | None = None
    attributes: dict[str, _ValueFields] = {}
    price: _PriceFields = _PriceFields()
    excluded: tuple[str, ...] = ()
    source: Literal["model", "literal"] = "model"
    why: str = ""


def items(values: object, field: str, what: str) -> Iterable[object]:
    """The values of a list, or of another ordered iterable with one value for each item."""
    fix = ""
    if isinstance(values, (set, frozenset)):
        fix = "; a set has no order, so pass a list"
    elif hasattr(values, "columns"):  # iterating over a table yields the names of its columns
        rows = next((name for name in ("to_dicts", "to_pylist") if hasattr(values, name)), "")  # polars, Arrow
        fix = f"; pass df.{rows}()" if rows else "; pass df.to_dict('records')"
    elif not isinstance(values, (str, bytes, Mapping)) and isinstance(values, Iterable):
        with contextlib.suppress(TypeError):  # an array of no dimension only looks like an iterable
            return iter(values)
    raise InputError(f"must be a list of {what}, got {type(values).__name__}{fix}", field=field)


def _make_candidate(i: int, value: object) -> Candidate:
    match value:
        case Candidate():
            return value
        case Listing():
            return Candidate(value)
        case str():
            return Candidate(Listing(listing_id=str(i), title=str(value)))
        case Mapping():
            return Candidate.from_dict(value)
    raise InputError(f"must be a Candidate, Listing, dict or title, got {type(value).__name__}")


def make_listings(values: object) -> list[Listing]:
    """Make listings from a list of `Listing`, dict or title text.

    A plain text is a title; its listing id is its position in the list, 0-based.

    Raises:
        InputError: When it is not a list, or a field is wrong.
    """
    listings = []
    for i, value in enumerate(items(values, "listings", "listings")):
        with at(f"listings[{i}]"):
            match value:
                case Listing():
                    listings.append(value)
                case str():
                    listings.append(Listing(listing_id=str(i), title=str(value)))
                case Mapping():
                    listings.append(make_listing(value))
                case _:
                    raise InputError(f"must be a Listing, dict or title, got {type(value).__name__}")
    return listings


def make_history(values: object) -> tuple[Interaction, ...]:
    """Make a history from a list of `Interaction` or dict.

    Raises:
        InputError: When it is not a list, or a field is wrong.
    """
    history = []
    for i, value in enumerate(items(values, "history", "interactions")):
        with at(f"history[{i}]"):
            if isinstance(value, Interaction):
                history.append(value)
            elif isinstance(value, Mapping):
                history.append(make_interaction(value))
            else:
                raise InputError(f"must be an Interaction or dict, got {type(value).__name__}")
    return tuple(history)


def whole_number(name: str, number: Any, at_least: int | None = None) -> int:
    """A Python or NumPy integer as an int.

    Raises:
        InputError: When it is not a whole number, or too small.
    """
    try:
        whole = operator.index(number)
    except TypeError:
        whole = None
    if whole is None or isinstance(number, bool):
        raise InputError(f"must be a whole number, got {shown(number)}", field=name)
    if at_least is not None and whole < at_least:
        raise InputError(f"must be at least {at_least}, got {shown(number)}", field=name)
    return whole


@contextlib.contextmanager
def at(place: str) -> Iterator[None]:
    """Put `place` before the field of any `InputError` raised inside."""
    try:
        yield
    except InputError as error:
        message = str(error).removeprefix(f"{error.field}: ") if error.field else str(error)
        if place == "query" and error.field in ("text", "query_id"):  # a request line holds both at the top level
            joined = place if error.field == "text" else error.field
        else:
            joined = f"{place}.{error.field}" if error.field else place
        raise InputError(message, field=joined) from None
