"""The data that goes into a rerank call and the data that comes out, in the field's words.

Input types check themselves: a wrong value raises `InputError`, which names the field, the value and the fix.
They take plain dicts for their nested parts, so ``Listing(**line)`` works on a parsed JSON line.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar, cast, dataclass_transform

import pydantic
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass as pydantic_dataclass

from genrank.errors import InputError
from genrank.text.clean import clean

T = TypeVar("T")

Event = Literal["view", "click", "cart", "purchase", "rating"]
Outcome = Literal["model", "repaired", "fallback"]

_FIXES = {
    "missing": "this field is required; give it a value",
    "unexpected_keyword_argument": "remove it; a shop's own fields go under 'attributes'",
    "dataclass_type": 'write it as an object, such as {"amount": 129.0, "currency": "CNY"} for a price',
    "string_type": "write it as text, in quotes",
    "float_type": "write it as a number, without quotes or currency sign",
    "float_parsing": "write it as a number, without quotes or currency sign",
    "int_type": "write it as a whole number",
    "int_parsing": "write it as a whole number",
    "int_from_float": "write it as a whole number",
    "finite_number": "replace NaN or infinity by a number, or leave the field out",
    "datetime_parsing": "write it as ISO 8601, such as 2026-05-01T10:00:00Z",
    "datetime_from_date_parsing": "write it as ISO 8601, such as 2026-05-01T10:00:00Z",
}


def _input_error(error: pydantic.ValidationError, names: tuple[str, ...]) -> InputError:
    """Turn pydantic's first complaint into an `InputError`; `names` are the fields in positional order."""
    first = error.errors(include_url=False)[0]
    path = ""
    for part in first["loc"]:
        if not path:
            path = names[part] if isinstance(part, int) and part < len(names) else str(part)
        else:
            path += f"[{part}]" if isinstance(part, int) else f".{part}"
    shown = repr(first["input"])
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    message = first["msg"].removeprefix("Value error, ")
    fix = _FIXES.get(first["type"])
    got = "" if first["type"] == "missing" else f", got {shown}"
    return InputError(f"{message}{got}" + (f"; {fix}" if fix else ""), field=path)


@dataclass_transform(frozen_default=True, field_specifiers=(field, Field))
def _checked(cls: type[T]) -> type[T]:
    """Make a frozen dataclass whose constructor validates and raises `InputError`."""
    made = pydantic_dataclass(cls, frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
    init: Callable[..., None] = made.__init__
    names = tuple(f.name for f in dataclasses.fields(made))

    @functools.wraps(init)
    def checked_init(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            init(self, *args, **kwargs)
        except pydantic.ValidationError as error:
            raise _input_error(error, names) from None

    made.__init__ = checked_init  # type: ignore[method-assign]
    return cast(type[T], made)


def _not_blank(text: str) -> str:
    if not clean(text).strip("\u200c\u200d "):
        raise ValueError("must hold a visible character")
    return text


def _id(identifier: str) -> str:
    if not identifier or any(c.isspace() or not c.isprintable() for c in identifier):
        raise ValueError("an id must be non-empty, without white space (TREC files separate by it) and printable")
    return identifier


def _not_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


Id = Annotated[str, AfterValidator(_id)]
Text = Annotated[str, AfterValidator(_not_blank)]
Number = Annotated[float, BeforeValidator(_not_bool)]
Whole = Annotated[int, BeforeValidator(_not_bool)]


@_checked
class Price:
    """An amount of money.

    Attributes:
        amount: In units of the currency (129.0, not cents); not negative.
        currency: ISO 4217 code, such as ``CNY``.
    """

    amount: Annotated[Number, Field(ge=0)]
    currency: str = ""


@_checked
class Listing:
    """One article of a shop.

    Attributes:
        listing_id: Identity; without white space.
        title: What the shopper sees first; not blank.
        description: Free text.
        brand: Brand name.
        category: Path from the widest to the narrowest category.
        price: Amount and currency.
        attributes: Such as ``{"colour": "red"}``.
        rating: Mean rating, 0 to 5.
        rating_count: Number of ratings.
        reviews: Texts of some reviews.
        image_url: Address of a picture.
        in_stock: Whether it can be bought now; None when unknown.
        seller_id: Who sells it.
    """

    listing_id: Id
    title: Text
    description: str = ""
    brand: str = ""
    category: tuple[str, ...] = ()
    price: Price | None = None
    attributes: dict[str, str] = field(default_factory=dict)
    rating: Annotated[Number, Field(ge=0, le=5)] | None = None
    rating_count: Annotated[Whole, Field(ge=0)] | None = None
    reviews: tuple[str, ...] = ()
    image_url: str = ""
    in_stock: bool | None = None
    seller_id: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The listing as JSON types, without the fields that hold nothing."""
        return compact(dataclasses.asdict(self))


@_checked
class Interaction:
    """One event of the shopper's history.

    Attributes:
        event: What the shopper did.
        listing: With what.
        time: When; None when unknown.
        rating: The shopper's own rating, 0 to 5, for ``rating`` events.
        query: The query that led there.
    """

    event: Event
    listing: Listing
    time: datetime | None = None
    rating: Annotated[Number, Field(ge=0, le=5)] | None = None
    query: str = ""


@_checked
class Query:
    """What the shopper typed.

    Attributes:
        text: Not blank.
        query_id: Name of the query in runs and qrels; empty when it has none.
    """

    text: Text
    query_id: Annotated[str, AfterValidator(lambda s: _id(s) if s else s)] = ""


@_checked
class Candidate:
    """A listing that a first stage proposed.

    Attributes:
        listing: The listing.
        score: The first stage's score; any finite number.
        rank: The first stage's rank, 1-based; None takes the place in the list.
    """

    listing: Listing
    score: Number | None = None
    rank: Annotated[Whole, Field(ge=1)] | None = None

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Candidate:
        """Make a candidate of a request line's object: a listing's fields beside ``score`` and ``rank``.

        Raises:
            InputError: When a field is wrong.
        """
        listing = {key: value for key, value in fields.items() if key not in ("score", "rank")}
        first_stage = {key: fields[key] for key in ("score", "rank") if key in fields}
        return cls(make_listing(listing), **first_stage)


def make_interaction(fields: Mapping[str, Any]) -> Interaction:
    """Make an interaction of a JSON object.

    Raises:
        InputError: When a field is wrong or missing, or a name is not text.
    """
    _check_names(fields)
    return Interaction(**fields)


def _check_names(fields: Mapping[str, Any]) -> None:
    for key in fields:
        if not isinstance(key, str):
            raise InputError(f"field names must be text, got {key!r}")


def make_listing(fields: Mapping[str, Any]) -> Listing:
    """Make a listing of a JSON object.

    Raises:
        InputError: When a field is wrong or missing, or a name is not text.
    """
    _check_names(fields)
    return Listing(**fields)


@dataclass(frozen=True, slots=True)
class RankedItem:
    """One listing of a ranking.

    Attributes:
        listing_id: Identity.
        rank: 1-based.
        score: 0 to 1, never above the score of the item before. What it means depends on the decoding: see
            `genrank.decoding`.
        source_rank: The rank that the candidate came with, 1-based.
        reason: One sentence why it is here; None where none was asked for or none could be written.
        evidence: The fields that the reason rests on, such as ``attributes.colour`` or ``history[2].brand``.
    """

    listing_id: str
    rank: int
    score: float
    source_rank: int
    reason: str | None = None
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token counts of one call.

    Attributes:
        prompt: Tokens read, over all windows, passes and reasons.
        cached: Of these, tokens whose keys and values were reused instead of computed.
        completion: Tokens written, forced ones included.
    """

    prompt: int = 0
    cached: int = 0
    completion: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.prompt + other.prompt, self.cached + other.cached, self.completion + other.completion)


@dataclass(frozen=True, slots=True)
class Claims:
    """What the model claimed in its reasons, and what became of it.

    Attributes:
        made: Claims found: brands, numbers with units, prices, colours, sizes, attribute values, praise.
        grounded: Of these, claims that stand in the listing or in the history.
        removed: Of these, claims that do not, and were taken out.
        rewritten: Reasons that were written anew from their evidence.
    """

    made: int = 0
    grounded: int = 0
    removed: int = 0
    rewritten: int = 0

    def __add__(self, other: Claims) -> Claims:
        return Claims(
            self.made + other.made,
            self.grounded + other.grounded,
            self.removed + other.removed,
            self.rewritten + other.rewritten,
        )


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a ranking came from.

    Attributes:
        model: Name of the model.
        adapter: Name of the adapter; None without one.
        prompt: Name of the prompt template, with its version.
        prompt_hash: First 16 hex digits of the SHA-256 of the template.
        engine: Who ran the model.
        decoding: How a window became an order.
        strategy: How windows were laid, with their size.
        outcome: ``model``: the model's order as it is. ``repaired``: something of it had to be mended (`repairs`).
            ``fallback``: some or all items stand in the fallback's or the first stage's order (`why`).
        why: What went wrong; empty for outcome ``model``.
        repairs: Each mend, in words.
        windows: Windows ranked by the model, over all passes.
        passes: Passes over differently ordered candidates that were merged.
        agreement: Mean Kendall's tau between the passes' orders, -1 to 1; None with one pass.
        tokens: Token counts.
        cuts: Tokens cut from each section of the prompt to keep the budget, over all windows.
        neutralised: Texts in which something was made harmless that could have been taken for an instruction or for
            the model's own words, over all windows.
        claims: What the reasons claimed.
        calibration: What the scores' calibration was fitted on; None where scores are not calibrated.
        seconds: Wall time of the call; in a batch, of the whole batch.
    """

    model: str = ""
    adapter: str | None = None
    prompt: str = ""
    prompt_hash: str = ""
    engine: str = ""
    decoding: str = ""
    strategy: str = ""
    outcome: Outcome = "model"
    why: str = ""
    repairs: tuple[str, ...] = ()
    windows: int = 0
    passes: int = 1
    agreement: float | None = None
    tokens: Tokens = Tokens()
    cuts: Mapping[str, int] = field(default_factory=dict)
    neutralised: int = 0
    claims: Claims = Claims()
    calibration: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Ranking:
    """The answer to one rerank call: every candidate exactly once, or the first `top_k` of them.

    Attributes:
        query_id: The query's id.
        items: Best first.
        provenance: Where the order came from.
    """

    query_id: str
    items: tuple[RankedItem, ...]
    provenance: Provenance = Provenance()

    def to_run(self) -> dict[str, dict[str, float]]:
        """The ranking as an evaluation run, ``{query_id: {listing_id: score}}``.

        Scores are ``n, n - 1, .. 1``, so that no two tie and any IR tool reads back exactly this order.

        Raises:
            InputError: When the query has no id, since a run is keyed by it.
        """
        if not self.query_id:
            raise InputError("a run needs a query id; pass Query(text, query_id=...)", field="query_id")
        return {self.query_id: {item.listing_id: float(len(self.items) - i) for i, item in enumerate(self.items)}}

    def to_dict(self) -> dict[str, Any]:
        """The ranking as JSON types (a ranking line)."""
        fields = dataclasses.asdict(self)
        fields["items"] = [compact(item) for item in fields["items"]]
        return fields


@dataclass(frozen=True, slots=True)
class Request:
    """One rerank call as data: a request line.

    Attributes:
        query: The query.
        candidates: In the first stage's order.
        history: The shopper's past, oldest first.
    """

    query: Query
    candidates: tuple[Candidate, ...]
    history: tuple[Interaction, ...] = ()


def compact(fields: dict[str, Any]) -> dict[str, Any]:
    """The dict without the entries that hold nothing (None, empty text, empty collection), at every level."""
    kept = {}
    for key, value in fields.items():
        if isinstance(value, dict):
            value = compact(value)
        if value is None or (isinstance(value, (str, dict, list, tuple)) and not value):
            continue
        kept[key] = value
    return kept
