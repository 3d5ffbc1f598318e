"""The data that goes into a rerank call, and the data that comes out.

Input types check their own fields: a wrong value raises `InputError`, which names the field, the value and the fix.
Nested parts may be plain dicts, so ``Listing(**line)`` works on a parsed JSON line.
"""

from __future__ import annotations

import dataclasses
import decimal
import functools
import itertools
import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar, cast, dataclass_transform, overload

import pydantic
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import CoreSchema, core_schema

from genrank.errors import InputError, first_problem
from genrank.text.clean import clean
from genrank.text.language import Language

T = TypeVar("T")

Event = Literal["view", "click", "cart", "purchase", "rating"]
"""What a shopper did with a listing."""

Decoding = Literal["pointwise", "inline", "first-token", "listwise"]
"""How a window becomes an order; see `genrank.decoding`."""

Dtype = Literal["auto", "bfloat16", "float16", "float32", "int8"]
"""Number formats of a model's weights; each engine documents what ``auto`` means, and whether it takes ``int8``."""

Strategy = Literal["each", "single", "sliding", "tournament"]
"""How a list is split into windows; see `genrank.windows`. ``each`` belongs to ``pointwise``: a window a candidate."""

Variety = Literal["mmr", "dpp"]
"""How a ranking is made more varied; see `genrank.search.diversity`."""

Combine = Literal["replace", "add"]
"""What becomes of the two scores of a candidate that both stages of a cascade ranked; see `genrank.Cascade`."""

Outcome = Literal["model", "repaired", "fallback"]
"""Whether the order is the model's own; see `Provenance`."""

Cause = Literal["", "deadline", "engine-error", "bad-output", "budget"]
"""Why an outcome is not ``model``: the deadline passed, the engine failed, the model's answer could not be used, or a
reason did not fit the token budget. Empty for the outcome ``model``."""

StandIn = Literal["", "baseline", "first-stage"]
"""Whose order the candidates have that the model did not rank: ``baseline`` is that of the ``fallback`` of
`genrank.Reranker`, ``first-stage`` the one in which they came. Empty when the model ranked all of them."""

_EXAMPLES = {
    "Price": '{"amount": 129.0, "currency": "CNY"}',
    "Listing": '{"listing_id": "p1", "title": "Red dress"}',
}
_PANDAS = "make it None: df.astype(object).where(df.notna(), None)"
_REQUIRED = "this field is required; give it a value"
FIELD_FIXES: Mapping[str, str] = {
    "missing": "give it a value",
    "unexpected_keyword_argument": "remove it; a shop's own fields go under 'attributes'",
    "dataclass_type": "write it as an object",
    "tuple_type": "write it as a list of texts",
    "dict_type": "write it as an object of names and texts",
    "string_type": "write it as text, in quotes",
    "float_type": "write it as a number, without quotes or currency sign",
    "float_parsing": "write it as a number, without quotes or currency sign",
    "int_type": "write it as a whole number",
    "int_parsing": "write it as a whole number",
    "int_parsing_size": "write it as a whole number of fewer digits",
    "int_from_float": "write it as a whole number",
    "finite_number": "replace NaN or infinity by a number, or leave the field out",
    "datetime_type": "write it as ISO 8601, such as 2026-05-01T10:00:00Z",
    "datetime_parsing": "write it as ISO 8601, such as 2026-05-01T10:00:00Z",
    "datetime_from_date_parsing": "write it as ISO 8601, such as 2026-05-01T10:00:00Z",
}
"""How to fix a wrong field, by the type of pydantic's error."""


def _input_error(error: pydantic.ValidationError, names: tuple[str, ...]) -> InputError:
    """Turn pydantic's first error into an `InputError`; `names` are the fields in positional order."""
    first = error.errors(include_url=False)[0]
    if first["loc"] and isinstance(top := first["loc"][0], int) and top < len(names):
        first["loc"] = (names[top], *first["loc"][1:])
    path, message = first_problem([first], fixes=FIELD_FIXES)
    if first["type"] == "dataclass_type":
        message += f", such as {_EXAMPLES[first['ctx']['class_name']]}"
    value = first["input"]
    if first["type"] == "missing" or value is None:
        return InputError(_REQUIRED, field=path)
    if type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and math.isnan(value)):
        message += f"; if that is a missing value of pandas, {_PANDAS}"
    return InputError(message, field=path)


class _Nullable:
    """Lets an optional field be None (JSON ``null``); `checked` then sets its default."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.nullable_schema(handler(source))


def _fill_nulls(self: Any) -> None:
    """Set fields that are None to their defaults, and drop None from collections: null means left out."""
    values = self.__dict__
    for name, default in type(self)._defaults:
        value = values[name]
        if value is None:
            object.__setattr__(self, name, default())
        elif not value:
            continue
        elif type(value) is tuple and None in value:
            object.__setattr__(self, name, tuple(part for part in value if part is not None))
        elif type(value) is dict and None in value.values():
            object.__setattr__(self, name, {key: part for key, part in value.items() if part is not None})


def _nullable_defaults(cls: type) -> list[tuple[str, Callable[[], Any]]]:
    """The fields whose default is not None, each with a function that returns the default."""
    found: list[tuple[str, Callable[[], Any]]] = []
    for one in dataclasses.fields(cls):
        if one.default_factory is not dataclasses.MISSING:
            found.append((one.name, one.default_factory))
        elif one.default is not dataclasses.MISSING and one.default is not None:
            found.append((one.name, functools.partial(lambda value: value, one.default)))
    return found


@dataclass_transform(frozen_default=True, field_specifiers=(field, Field))
def checked(cls: type[T]) -> type[T]:
    """Turn a class into a frozen dataclass whose constructor validates its fields and raises `InputError`."""
    cls.__post_init__ = _fill_nulls  # type: ignore[attr-defined]
    made = pydantic_dataclass(cls, frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
    made._defaults = _nullable_defaults(made)  # type: ignore[attr-defined]
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


_HEAD = 4096  # characters; a prompt shows nothing of what comes after so much that cannot be seen


def is_visible(text: str) -> bool:
    """Whether a text holds a visible character, in what a prompt could show of it."""
    return bool(clean(text.lstrip()[:_HEAD]).strip("\u200c\u200d "))


def _not_blank(text: str) -> str:
    if not is_visible(text):
        raise ValueError("must hold a visible character")
    return text


def _id(identifier: str) -> str:
    if not identifier or " " in identifier or not identifier.isprintable():  # no other white space is printable
        raise ValueError("an id must be non-empty, without white space (TREC files separate by it) and printable")
    return identifier


def _plain(value: Any) -> Any:
    """A NumPy, pandas or decimal scalar as a plain Python value, without importing these packages."""
    if type(value) in _PYTHONS_OWN:
        return value
    if hasattr(value, "dtype") and hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        if getattr(value.dtype, "kind", "") == "M":
            return value.astype("datetime64[us]").item()
        plain = value.item()
        return plain if type(plain) in _PYTHONS_OWN else _plain_real(plain)
    if isinstance(value, (numbers.Real, decimal.Decimal)):
        return _plain_real(value)
    if type(value).__name__ == "NaTType":  # pandas' missing time, which passes for a datetime
        raise ValueError("must be a time")
    return value


def _plain_real(value: Any) -> Any:
    """A real number of any kind as a float; NumPy's long doubles have no Python number of their own."""
    if not isinstance(value, (numbers.Real, decimal.Decimal)):
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf  # which is refused as such


_PYTHONS_OWN = frozenset({float, int, str, bool, type(None), datetime})


def _number(value: object) -> object:
    value = _plain(value)
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    if isinstance(value, int) and abs(value) >= _TOO_LARGE:
        raise ValueError("must be a number within -1e308..1e308")
    return value


def _whole(value: object) -> object:
    value = _plain(value)
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    if isinstance(value, int) and abs(value) >= _LONGEST:
        raise ValueError("must be a whole number of at most 4,300 digits")
    return value


def _ordered(value: object) -> object:
    if isinstance(value, (set, frozenset)):
        raise ValueError("must be a list; a set has no order")
    return value


_TOO_LARGE = 10**308  # not every larger integer has a float
_LONGEST = 10**4300  # Python does not print longer ones

Id = Annotated[str, AfterValidator(_id)]
Text = Annotated[str, AfterValidator(_not_blank)]
Number = Annotated[float, BeforeValidator(_number)]
Whole = Annotated[int, BeforeValidator(_whole)]
_OptionalText = Annotated[str, _Nullable()]
_OptionalTexts = Annotated[tuple[_OptionalText, ...], BeforeValidator(_ordered), _Nullable()]


@checked
class Price:
    """An amount of money.

    Attributes:
        amount: In units of the currency (129.0, not cents); not negative.
        currency: ISO 4217 code, such as ``CNY``.
    """

    amount: Annotated[Number, Field(ge=0)]
    currency: _OptionalText = ""


@checked
class Aspect:
    """What the reviews of a listing say of one aspect, such as its fit; see `genrank.words.aspects`.

    Attributes:
        name: Such as ``fit``; not blank.
        positive: Sentences that speak well of it.
        negative: Sentences that speak badly of it.
        mixed: Sentences that do both.
        quote: One of these sentences, as evidence.
    """

    name: Text
    positive: Annotated[Whole, Field(ge=0)] = 0
    negative: Annotated[Whole, Field(ge=0)] = 0
    mixed: Annotated[Whole, Field(ge=0)] = 0
    quote: _OptionalText = ""


@checked
class Listing:
    """One article in a shop. None (JSON ``null``) in an optional field means that the field is left out.

    Attributes:
        listing_id: Unique id, without white space.
        title: What the shopper sees first; not blank.
        description: Free text.
        brand: Brand name.
        category: Path from the widest to the narrowest category.
        price: Amount and currency.
        attributes: By name, such as ``{"colour": "red"}``.
        rating: Mean rating, 0 to 5.
        rating_count: Number of ratings.
        reviews: Texts of some reviews.
        image_url: Address of a picture; see `genrank.pictures`.
        in_stock: Whether it can be bought now; None when unknown.
        seller_id: Who sells it.
        aspects: What its reviews say, by aspect; ``genrank aspects`` finds it out.
    """

    listing_id: Id
    title: Text
    description: _OptionalText = ""
    brand: _OptionalText = ""
    category: _OptionalTexts = ()
    price: Price | None = None
    attributes: Annotated[dict[str, _OptionalText], _Nullable()] = field(default_factory=dict)
    rating: Annotated[Number, Field(ge=0, le=5)] | None = None
    rating_count: Annotated[Whole, Field(ge=0)] | None = None
    reviews: _OptionalTexts = ()
    image_url: _OptionalText = ""
    in_stock: Annotated[bool | None, BeforeValidator(_plain)] = None
    seller_id: _OptionalText = ""
    aspects: Annotated[tuple[Aspect, ...], BeforeValidator(_ordered), _Nullable()] = ()

    def to_dict(self) -> dict[str, Any]:
        """The listing as JSON types, without empty fields."""
        return compact(_json_types(dataclasses.asdict(self)))


@checked
class Interaction:
    """One event of the shopper's history.

    Attributes:
        event: What the shopper did.
        listing: The listing the shopper did it with.
        time: When it happened; None when unknown.
        rating: The shopper's own rating, 0 to 5, for ``rating`` events.
        query: The query that led there.
    """

    event: Event
    listing: Listing
    time: Annotated[datetime | None, BeforeValidator(_plain)] = None
    rating: Annotated[Number, Field(ge=0, le=5)] | None = None
    query: _OptionalText = ""


@checked
class Query:
    """What the shopper typed.

    Attributes:
        text: Not blank.
        query_id: The query's id in runs and qrels; empty when it has none.
    """

    text: Text
    query_id: Annotated[str, AfterValidator(lambda s: _id(s) if s else s), _Nullable()] = ""


@checked
class Candidate:
    """A listing that a first stage proposed.

    Attributes:
        listing: The listing.
        score: The first stage's score; any finite number.
        rank: The first stage's rank, 1-based; None means the position in the list.
    """

    listing: Listing
    score: Number | None = None
    rank: Annotated[Whole, Field(ge=1)] | None = None

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Candidate:
        """Make a candidate from a request line's object: the listing's fields, with ``score`` and ``rank``.

        Raises:
            InputError: When a field is wrong.
        """
        listing = {key: value for key, value in fields.items() if key not in ("score", "rank")}
        first_stage = {key: fields[key] for key in ("score", "rank") if key in fields}
        return cls(make_listing(listing), **first_stage)


def make_interaction(fields: Mapping[str, Any]) -> Interaction:
    """Make an interaction from a JSON object.

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
    """Make a listing from a JSON object.

    Raises:
        InputError: When a field is wrong or missing, or a name is not text.
    """
    _check_names(fields)
    return Listing(**fields)


@dataclass(frozen=True, slots=True)
class RankedItem:
    """One listing of a ranking.

    Attributes:
        listing: The listing.
        rank: 1-based.
        score: 0 to 1, never above the score of the item before it. What it means depends on the decoding: see
            `genrank.decoding`.
        source_rank: The candidate's rank before reranking, 1-based.
        reason: One sentence on why the item is here; None when none was asked for, none could be written, or
            the listing meets no wish that its fields tell of.
        evidence: The fields that the reason rests on, such as ``attributes.colour`` or ``history[2].brand``.
    """

    listing: Listing
    rank: int
    score: float
    source_rank: int
    reason: str | None = None
    evidence: tuple[str, ...] = ()

    @property
    def listing_id(self) -> str:
        """The listing's id."""
        return self.listing.listing_id

    def to_dict(self) -> dict[str, Any]:
        """The item as JSON types: its listing's id, and the fields that are not empty."""
        fields = {one.name: getattr(self, one.name) for one in dataclasses.fields(self) if one.name != "listing"}
        return compact(_json_types({"listing_id": self.listing_id} | fields))


def in_order(items: Iterable[RankedItem]) -> tuple[RankedItem, ...]:
    """Number items as they come, from 1, and lower each score that is above one before it."""
    ranked = tuple(items)
    scores = itertools.accumulate((item.score for item in ranked), min)
    return tuple(
        dataclasses.replace(item, rank=rank, score=score)
        for rank, (item, score) in enumerate(zip(ranked, scores, strict=True), start=1)
    )


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token counts of one call.

    Attributes:
        prompt: Prompt tokens, over all windows, passes and reasons.
        cached: Prompt tokens whose keys and values were reused instead of computed.
        completion: Generated tokens, including those that a mask forced.
    """

    prompt: int = 0
    cached: int = 0
    completion: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.prompt + other.prompt, self.cached + other.cached, self.completion + other.completion)


@dataclass(frozen=True, slots=True)
class Guess(Generic[T]):
    """A value that the model has chosen.

    Attributes:
        value: One of the catalogue's.
        confidence: Probability, 0 to 1, among the values that it could choose from, "any" included.
    """

    value: T
    confidence: float


@dataclass(frozen=True, slots=True)
class Intent:
    """A query as a search engine can use it. What the query does not say is empty.

    Attributes:
        query: The query as it was typed.
        language: Of the query.
        corrected: The query with its spelling corrected; the query itself where nothing is wrong with it.
        categories: The categories that it asks for, the likeliest first.
        brand: The brand that it names.
        attributes: By name.
        least_price: The lowest price, in units of the currency.
        most_price: The highest price.
        currency: ISO 4217 code; empty where neither the query nor the catalogue tells.
        excluded: Words that the shopper does not want.
        source: ``model``, or ``literal`` where the model could not be asked, so that only what stands in the query in
            so many words is known (price, brand, exclusions).
        why: Why the model could not be asked.
        tokens: Token counts.
        seconds: Time taken.
    """

    query: str
    language: Language
    corrected: str
    categories: tuple[Guess[tuple[str, ...]], ...] = ()
    brand: Guess[str] | None = None
    attributes: dict[str, Guess[str]] = field(default_factory=dict)
    least_price: float | None = None
    most_price: float | None = None
    currency: str = ""
    excluded: tuple[str, ...] = ()
    source: str = "model"
    why: str = ""
    tokens: Tokens = field(default_factory=Tokens)
    seconds: float = 0.0

    @property
    def has_price(self) -> bool:
        """Whether the query names a price."""
        return self.least_price is not None or self.most_price is not None

    def slots(self) -> set[tuple[str, str]]:
        """The slots and values, as text, to be compared with labels."""
        found = {("category", " > ".join(guess.value)) for guess in self.categories}
        found |= {(f"attributes.{name}", guess.value) for name, guess in self.attributes.items()}
        found |= {("excluded", word) for word in self.excluded}
        if self.brand is not None:
            found.add(("brand", self.brand.value))
        if self.least_price is not None:
            found.add(("least_price", f"{self.least_price:g}"))
        if self.most_price is not None:
            found.add(("most_price", f"{self.most_price:g}"))
        if self.corrected != self.query:
            found.add(("corrected", self.corrected))
        return found

    def to_dict(self) -> dict[str, Any]:
        """The intent as JSON types, without empty fields."""
        price = {"least": self.least_price, "most": self.most_price, "currency": self.currency}
        plain: dict[str, Any] = {
            "query": self.query,
            "language": self.language,
            "corrected": self.corrected,
            "categories": [_guess("path", list(one.value), one.confidence) for one in self.categories],
            "brand": self.brand and _guess("name", self.brand.value, self.brand.confidence),
            "attributes": {name: _guess("value", one.value, one.confidence) for name, one in self.attributes.items()},
            "price": compact(price) if self.has_price else {},
            "excluded": list(self.excluded),
            "source": self.source,
            "why": self.why,
        }
        return compact(plain)


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims in the model's reasons, and what the check did with them.

    Attributes:
        made: Claims found: brands, numbers with units, prices, colours, sizes, attribute values, praise.
        grounded: Claims that the listing or the history supports.
        removed: Claims that neither supports, and that were removed.
        rewritten: Reasons that were rewritten from the fields that meet the query or the history.
        dropped: Reasons that were left out, because no field of the listing says a word of the query, and nothing of
            the history is like it.
    """

    made: int = 0
    grounded: int = 0
    removed: int = 0
    rewritten: int = 0
    dropped: int = 0

    def __add__(self, other: Claims) -> Claims:
        return Claims(
            self.made + other.made,
            self.grounded + other.grounded,
            self.removed + other.removed,
            self.rewritten + other.rewritten,
            self.dropped + other.dropped,
        )


@dataclass(frozen=True, slots=True)
class Diversified:
    """How a ranking was made more varied; see `genrank.search.diversity`.

    Attributes:
        method: Maximal marginal relevance or a determinantal point process.
        variety: What variety counted beside the scores, above 0, at most 1.
        top_k: The first places, which were filled anew; the others keep the order of the scores.
        aspects: By which of their aspects listings were alike; empty where vectors were given.
    """

    method: Variety
    variety: float
    top_k: int
    aspects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pictured:
    """The pictures of a ranking's candidates; see `genrank.pictures`.

    Attributes:
        used: Candidates that the model saw with their picture.
        without: Candidates that have no address of a picture.
        failed: Candidates that were ranked without theirs, by what went wrong; `genrank.pictures.sources.Trouble`.
    """

    used: int = 0
    without: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a ranking was made.

    Attributes:
        model: Name of the model.
        adapter: Name of the adapter; None without one.
        prompt: Name of the prompt template, with its version.
        prompt_hash: First 16 hex digits of the SHA-256 of the template.
        engine: Name of the engine that ran the model; of one on a server, also how the server was read.
        decoding: How a window became an order.
        strategy: How the list was split into windows.
        window: The most candidates in a window; None for the strategy ``single``.
        stride: Candidates by which the window moved; None except for ``sliding``.
        top: How many of the best the tournament looked for; None except for ``tournament``.
        outcome: ``model``: the model's complete answer. ``repaired``: the model's order, but something is missing
            (`repairs`). ``fallback``: some or all items are in the fallback's or the first stage's order.
        cause: Why the outcome is not ``model``, as a code; the first one, if there are several.
        why: What went wrong with the order, in words; empty unless the outcome is ``fallback``.
        stand_in: Whose order the candidates have that the model did not rank. Of a `genrank.Cascade` that is the first
            stage's: what its second stage does not rank keeps the first one's order, which is a model's.
        repairs: Each repair, in words.
        reasons_missing: Reasons that were asked for and could not be written; `repairs` says why.
        windows: Windows that the model ranked, over all passes; of ``pointwise``, candidates.
        kept: Candidates of ``pointwise`` whose listing the model had read before, so that only the query was read.
        passes: Passes over the candidates in different orders, whose scores were averaged.
        agreement: Mean Kendall's tau between the passes' orders, -1 to 1; None with one pass.
        tokens: Token counts.
        cuts: Tokens cut from each section of the prompt to keep the budget, over all windows.
        neutralised: Texts from which something was removed that the model could have taken for an instruction or for
            its own words, over all windows.
        claims: The claims in the reasons.
        calibration: What the scores' calibration was fitted on; None when scores are not calibrated, or blended.
        blend: Weight of the model's scores beside the first stage's, 0 to 1 (`genrank.blending`); None when the two are
            not blended.
        estimates: Weight of the ranking's scores beside estimates of clicks, 0 to 1
            (`genrank.search.feedback.estimates`); None where these had no part.
        seconds: Wall time from the start of the call until this query's answer was complete. In a batch, queries take
            turns, so one that finished early took fewer seconds than the batch.
        then: What the second stage of a `genrank.Cascade` did; its costs and troubles are in the other fields too, but
            `windows`, `kept` and the settings are the first stage's. None without a second stage.
        diversified: How the order was made more varied after ranking; None when it was not.
        rules: Names of the business rules that were applied after ranking, such as ``at_most[0]``
            (`genrank.search.rules`).
        pictures: How many pictures the model saw; None when pictures are off.
    """

    model: str = ""
    adapter: str | None = None
    prompt: str = ""
    prompt_hash: str = ""
    engine: str = ""
    decoding: Decoding | Literal[""] = ""
    strategy: Strategy | Literal[""] = ""
    window: int | None = None
    stride: int | None = None
    top: int | None = None
    outcome: Outcome = "model"
    cause: Cause = ""
    why: str = ""
    stand_in: StandIn = ""
    repairs: tuple[str, ...] = ()
    reasons_missing: int = 0
    windows: int = 0
    kept: int = 0
    passes: int = 1
    agreement: float | None = None
    tokens: Tokens = Tokens()
    cuts: Mapping[str, int] = field(default_factory=dict)
    neutralised: int = 0
    claims: Claims = Claims()
    calibration: str | None = None
    blend: float | None = None
    estimates: float | None = None
    seconds: float = 0.0
    then: Provenance | None = None
    diversified: Diversified | None = None
    rules: tuple[str, ...] = ()
    pictures: Pictured | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """The answer to one rerank call: every candidate exactly once, or the first `top_k` of them.

    A sequence of its items: ``for item in ranking``, ``ranking[0]``, ``ranking[:3]``, ``len(ranking)``.

    Attributes:
        query_id: The query's id.
        items: Best first.
        provenance: How the order was made.
    """

    query_id: str
    items: tuple[RankedItem, ...]
    provenance: Provenance = Provenance()

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[RankedItem]:
        return iter(self.items)

    @overload
    def __getitem__(self, place: int) -> RankedItem: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[RankedItem, ...]: ...

    def __getitem__(self, place: int | slice) -> RankedItem | tuple[RankedItem, ...]:
        return self.items[place]

    def to_run(self) -> dict[str, dict[str, float]]:
        """The ranking as an evaluation run, ``{query_id: {listing_id: score}}``.

        Scores are ``n, n - 1, .. 1``, so there are no ties and every IR tool reads back exactly this order.

        Raises:
            InputError: When the query has no id, which a run needs as its key.
        """
        if not self.query_id:
            raise InputError("a run needs a query id; pass Query(text, query_id=...)", field="query_id")
        return {self.query_id: {item.listing_id: float(len(self.items) - i) for i, item in enumerate(self.items)}}

    def to_dict(self) -> dict[str, Any]:
        """The ranking as JSON types (a ranking line)."""
        return {
            "query_id": self.query_id,
            "items": [item.to_dict() for item in self.items],
            "provenance": _json_types(dataclasses.asdict(self.provenance)),
        }


@dataclass(frozen=True, slots=True)
class Request:
    """One rerank call as data: a request line. `genrank.parse_request` makes one from a JSON object.

    Attributes:
        query: The query.
        candidates: ``[n]`` in the first stage's order; at least one, with distinct ids. Lists become tuples.
        history: The shopper's past, in any order; times decide.
        intent: What the query means, for prompt templates that say so; None when unknown.

    Raises:
        InputError: When a field is wrong; `field` names it.
    """

    query: Query
    candidates: tuple[Candidate, ...]
    history: tuple[Interaction, ...] = ()
    intent: Intent | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.query, Query):
            raise InputError(f"must be a Query, got {type(self.query).__name__}; write Query(text)", field="query")
        if self.intent is not None and not isinstance(self.intent, Intent):
            raise InputError(
                f"must be an Intent, got {type(self.intent).__name__}; genrank.parse_request reads JSON", field="intent"
            )
        for name, kind in (("candidates", Candidate), ("history", Interaction)):
            values = getattr(self, name)
            if not isinstance(values, (tuple, list)):
                raise InputError(f"must be a list of {kind.__name__}, got {type(values).__name__}", field=name)
            if isinstance(values, list):
                object.__setattr__(self, name, tuple(values))
            for i, value in enumerate(values):
                if not isinstance(value, kind):
                    raise InputError(
                        f"must be a {kind.__name__}, got {type(value).__name__}; genrank.parse_request reads JSON",
                        field=f"{name}[{i}]",
                    )
        if not self.candidates:
            raise InputError("no candidates to rank; pass at least one", field="candidates")
        _check_ids(self.candidates)


def _check_ids(candidates: tuple[Candidate, ...]) -> None:
    places: dict[str, int] = {}
    for i, candidate in enumerate(candidates):
        listing_id = candidate.listing.listing_id
        if places.setdefault(listing_id, i) != i:
            raise InputError(
                f"the id {listing_id!r} is already that of candidates[{places[listing_id]}]; give each its own",
                field=f"candidates[{i}].listing_id",
            )


def _guess(name: str, value: object, confidence: float) -> dict[str, object]:
    return {name: value, "confidence": round(confidence, 4)}


def _json_types(value: Any) -> Any:
    """The value as JSON would give it back: lists in place of tuples, at every level."""
    if isinstance(value, dict):
        return {key: _json_types(part) for key, part in value.items()}
    return [_json_types(part) for part in value] if isinstance(value, (list, tuple)) else value


def compact(fields: dict[str, Any]) -> dict[str, Any]:
    """The dict without empty entries (None, empty text, empty collection), at every level."""
    kept = {}
    for key, value in fields.items():
        if isinstance(value, dict):
            value = compact(value)
        if value is None or (isinstance(value, (str, dict, list, tuple)) and not value):
            continue
        kept[key] = value
    return kept
