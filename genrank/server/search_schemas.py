"""The requests and responses of searches, events and forgetting, as pydantic models with examples."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr

from genrank.search.completion.suggestion import Match, Source
from genrank.server.answers import Tier
from genrank.server.schemas import Limit
from genrank.types import Interaction

_Text = Annotated[StrictStr, Field(max_length=1000)]
_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class SearchFilters(BaseModel):
    """Conditions that each result meets, whatever the query says; see `genrank.search.filters.Filters`."""

    # a condition that is overlooked would be a wrong result
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    price_min: _Number | None = Field(None, ge=0, description="Least price, included.")
    price_max: _Number | None = Field(None, ge=0, description="Greatest price, included.")
    currency: _Text | None = None
    category: Annotated[list[_Text], Field(max_length=20)] | None = Field(
        None, description="The beginning of the category path."
    )
    brand: _Text | None = None
    in_stock: StrictBool | None = None
    attributes: Annotated[dict[_Text, _Text], Field(max_length=20)] | None = None
    seller_id: _Text | None = None
    without_words: Annotated[list[_Text], Field(max_length=20)] | None = None
    without_ids: Annotated[list[_Text], Field(max_length=1000)] | None = None


class SearchRequest(BaseModel):
    """A search. `null` is as if left out, and fields that are not listed are ignored."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    query: StrictStr = Field(description="What the shopper typed; not blank.")
    user_id: _Text | None = Field(None, description="Who searches: for the shopper's history, and for the log.")
    history: list[Interaction] | None = Field(None, description="The shopper's past, in place of what is known.")
    filters: SearchFilters | None = None
    top_k: Limit = Field(None, description="How many results; by default, and for 0, all that were found.")
    reasons: Limit = Field(None, description="How many of the first results get a reason.")
    variety: Annotated[float, Field(strict=True, ge=0, le=1)] | None = Field(
        None, description="0 to 1: how much more varied the first results are; by default the server's."
    )
    deadline: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] | None = Field(
        None, description="Seconds for the whole search; at most the server's own."
    )


class SearchItem(BaseModel):
    """A result, with its whole listing."""

    listing_id: str
    rank: int = Field(description="1-based.")
    score: float = Field(ge=0, le=1)
    source_rank: int | None = Field(None, description="Among the candidates that were found; 1-based.")
    reason: str | None = None
    evidence: list[str] | None = Field(None, description="The fields that the reason rests on.")
    listing: dict[str, Any]


class SearchStage(BaseModel):
    """A stage of a search."""

    name: Literal["understand", "match", "personalise", "rank", "blend", "vary", "rules", "explain", "log"]
    seconds: float
    order: list[str] = Field(description="The listing ids after it, best first, where it changed the order.")
    note: str = Field(description="What went otherwise than it should; else empty.")


class SearchResponse(BaseModel):
    """The answer to a search. `provenance` says how the order was made; see `genrank.Provenance`."""

    request_id: str = Field(description="Names the search in `/v1/events`.")
    query: str = Field(description="What was searched for: the query with its spelling corrected.")
    intent: dict[str, Any] | None = Field(None, description="What the query means; only where the server reads it.")
    items: list[SearchItem]
    found: int = Field(description="How many candidates there were.")
    tier: Tier = Field(description="How good the answer is; see `Details`.")
    stages: list[SearchStage]
    provenance: dict[str, Any]


class CompleteRequest(BaseModel):
    """What has been typed so far, in the address."""

    prefix: str = Field(max_length=1000, description="A space at its end ends the last word.")
    count: int = Field(8, ge=1, le=50, description="How many suggestions, at most.")


class CompletedQuery(BaseModel):
    """A query that the shopper may be about to type; see `genrank.search.completion.Suggestion`."""

    text: str
    score: float
    source: Source
    match: Match


class CompleteResponse(BaseModel):
    """Suggestions, best first."""

    prefix: str
    suggestions: list[CompletedQuery]


class EventRequest(BaseModel):
    """What a shopper did with a listing that a search showed."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    request_id: _Text = Field(description="Of the answer to the search.")
    listing_id: _Text
    event: Literal["click", "cart", "purchase"]
    time: datetime | None = Field(
        None, description="When; now, if it is left out. To repeat a request safely, send the same time."
    )
    event_id: _Text | None = Field(None, min_length=1, description="The event's own id; one is logged once.")
    user_id: _Text | None = Field(None, description="Who it was: it then counts in the shopper's next searches.")


class EventResponse(BaseModel):
    """The event is on the disk."""

    request_id: str
    listing_id: str
    event: str
    time: datetime


class ForgottenResponse(BaseModel):
    """What was removed; null for what this server does not keep."""

    interactions: int | None = Field(description="Of the shopper's history.")
    impressions: int | None = Field(description="Rows of the log: listings that were shown.")
    events: int | None = Field(description="Rows of the log: what was clicked, carted and bought.")


SEARCH_EXAMPLES: dict[str, Any] = {
    "plain": {"summary": "A query alone", "value": {"query": "red summer dress", "top_k": 10}},
    "shopper": {
        "summary": "A known shopper, conditions, reasons",
        "value": {
            "query": "red summer dress",
            "user_id": "u1",
            "filters": {"price_max": 80, "currency": "EUR", "category": ["Women"], "in_stock": True},
            "top_k": 10,
            "reasons": 3,
            "variety": 0.2,
            "deadline": 5,
        },
    },
}
EVENT_EXAMPLES: dict[str, Any] = {
    "click": {
        "summary": "A click",
        "value": {
            "request_id": "5f0c2f8d6f3b4a0f9a51c1f1d0c7f7a2",
            "listing_id": "p2",
            "event": "click",
            "time": "2026-05-01T10:00:00Z",
            "user_id": "u1",
        },
    },
}
