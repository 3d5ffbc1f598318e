"""The requests and responses of the rerank APIs, as pydantic models with examples."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, WithJsonSchema

from genrank.server.answers import Tier
from genrank.types import Interaction, Outcome

_DOCUMENT = {
    "anyOf": [{"type": "string"}, {"type": "object", "additionalProperties": True}],
    "description": "A text; an object with a `title`, which is a listing (`brand`, `price`, `category`, `attributes` "
    "and so on; other fields become attributes); or an object with a `text`.",
}

Document = Annotated[Any, WithJsonSchema(_DOCUMENT)]
Limit = Annotated[StrictInt, Field(ge=0)] | None


class RerankRequest(BaseModel):
    """One request for all APIs. `null` is as if left out, and fields that are not listed are ignored.

    Of the fields that clients send, `truncate`, `truncation`, `raw_scores`, `max_tokens_per_doc`, `max_chunks_per_doc`
    and `priority` are among the ignored ones: long texts are cut to the prompt's limits, and scores are 0 to 1.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    query: StrictStr = Field(description="What the shopper typed; not blank.")
    documents: list[Document] | None = Field(None, description="At least one, in the first stage's order.")
    texts: list[StrictStr] | None = Field(None, description="TEI's name for `documents`; the answer is then a list.")
    model: StrictStr | None = Field(None, description="One of the names that `/v1/models` lists.")
    top_n: Limit = Field(None, description="How many results; by default, and for 0, all.")
    top_k: Limit = Field(None, description="Voyage's name for `top_n`; the answer then has `data`.")
    return_documents: StrictBool | None = Field(None, description="Whether results hold their documents.")
    return_text: StrictBool | None = Field(None, description="TEI's name for `return_documents`.")
    rank_fields: list[StrictStr] | None = Field(None, description="The only fields of objects to read.")
    history: list[Interaction] | None = Field(None, description="Extension: the shopper's past.")
    reasons: Limit = Field(None, description="Extension: how many of the first results get a reason.")
    instruction: StrictStr | None = Field(None, description="Extension: what else to look for, if the server takes it.")

    @property
    def wanted(self) -> int | None:
        """How many results; None for all."""
        return self.top_n or self.top_k or None


class Details(BaseModel):
    """How the answer was made; every response in an object has it as `genrank`."""

    tier: Tier = Field(
        description="How good the answer is, best first: `reasons`, the model's order with all reasons that were asked "
        "for; `model`, the model's order; `baseline`, some or all results in the order of the fallback; `first-stage`, "
        "some or all results in the order in which the documents were sent."
    )
    outcome: Outcome = Field(description="Whether the order is the model's own: `model`, `repaired` or `fallback`.")
    cause: str = Field(description="Why the outcome is not `model`; else empty.")
    reasons_missing: int = Field(description="Reasons that were asked for and could not be written in time, or at all.")
    cached: bool
    decoding: str
    prompt: str
    prompt_hash: str
    windows: int
    kept: int
    neutralised: int
    cuts: dict[str, int]


class Result(BaseModel):
    """One document of an answer."""

    index: int = Field(description="Place in the request, 0-based.")
    relevance_score: float = Field(ge=0, le=1)
    document: dict[str, Any] | None = None
    listing_id: str | None = None
    reason: str | None = None
    evidence: list[str] | None = None


class Usage(BaseModel):
    """Token counts."""

    prompt_tokens: int
    total_tokens: int


class RerankResponse(BaseModel):
    """The answer to Cohere's, Jina's and vLLM's clients."""

    id: str
    model: str
    results: list[Result]
    usage: Usage
    meta: dict[str, Any]
    genrank: Details


class VoyageResult(BaseModel):
    """One document of an answer to Voyage's client."""

    index: int
    relevance_score: float = Field(ge=0, le=1)
    document: str | None = None
    listing_id: str | None = None
    reason: str | None = None
    evidence: list[str] | None = None


class VoyageUsage(BaseModel):
    """Token counts."""

    total_tokens: int


class VoyageResponse(BaseModel):
    """The answer to Voyage's client, which sends `top_k`."""

    object: str = "list"
    data: list[VoyageResult]
    model: str
    usage: VoyageUsage
    genrank: Details


class TeiResult(BaseModel):
    """One document of an answer to TEI's clients, which send `texts`; the answer is a list of these."""

    index: int
    score: float = Field(ge=0, le=1)
    text: str | None = None
    reason: str | None = None


class ErrorDetails(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: int


class ErrorResponse(BaseModel):
    """An error, in one body for all APIs but TEI's."""

    message: str
    detail: str
    error: ErrorDetails


class TeiErrorResponse(BaseModel):
    """An error for TEI's clients."""

    error: str
    error_type: str


EXAMPLES: dict[str, Any] = {
    "texts": {
        "summary": "Plain texts, as every rerank API takes them",
        "value": {"query": "red summer dress", "documents": ["Blue wool coat", "Red cotton dress"], "top_n": 1},
    },
    "listings": {
        "summary": "Listings, a history and reasons",
        "value": {
            "query": "red summer dress",
            "documents": [
                {"listing_id": "p1", "title": "Blue wool coat", "price": {"amount": 129.0, "currency": "EUR"}},
                {"listing_id": "p2", "title": "Red cotton dress", "attributes": {"season": "summer"}},
            ],
            "history": [{"event": "purchase", "listing": {"listing_id": "h1", "title": "Straw hat"}}],
            "reasons": 1,
        },
    },
    "voyage": {
        "summary": "Voyage",
        "value": {"query": "red dress", "documents": ["Blue coat", "Red dress"], "top_k": None, "truncation": True},
    },
    "tei": {
        "summary": "Text Embeddings Inference",
        "value": {"query": "red dress", "texts": ["Blue coat", "Red dress"], "return_text": True},
    },
}
