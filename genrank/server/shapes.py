"""Writes answers and errors in the shape that the client's API has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import Response
from fastapi.responses import JSONResponse

from genrank.server.answers import Answer
from genrank.server.documents import Documents, document_text
from genrank.server.errors import ApiError
from genrank.server.schemas import (
    Details,
    ErrorDetails,
    ErrorResponse,
    RerankResponse,
    Result,
    TeiErrorResponse,
    TeiResult,
    Usage,
    VoyageResponse,
    VoyageResult,
    VoyageUsage,
)

Shape = Literal["cohere", "voyage", "tei"]
"""``cohere`` is also what Jina's and vLLM's clients read."""

_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_TEI_TYPES = {413: "Validation", 422: "Validation", 429: "Overloaded", 503: "Unhealthy"}


def shape_of(path: str, fields: Mapping[str, Any]) -> Shape:
    """Which API a request speaks: TEI's clients send ``texts``, Voyage's ``top_k`` and never ``top_n``."""
    if fields.get("texts") is not None:
        return "tei"
    voyage = "top_k" in fields and fields.get("top_n") is None and not path.startswith("/v2/")
    return "voyage" if voyage else "cohere"


@dataclass(frozen=True, slots=True)
class Reply:
    """Everything that a response is made from.

    Attributes:
        request_id: The request's id.
        version: Of Cohere's API, ``1`` or ``2``.
        model: The model's name as clients know it.
        sent: The documents as they were sent.
        documents: What was read of them.
        answer: The candidates' order; its places are those in `documents`.
        cached: Whether the answer was kept from before.
        wanted: How many results; None for all.
        with_documents: Whether to send the documents back.
    """

    request_id: str
    version: str
    model: str
    sent: Sequence[Any]
    documents: Documents
    answer: Answer
    cached: bool
    wanted: int | None
    with_documents: bool

    def results(self) -> list[Result]:
        """The results, best first; documents without a visible character come last, with the score 0."""
        listings = [candidate.listing for candidate in self.documents.candidates]
        results = []
        for item in self.answer.items:
            place = self.documents.places[item.place]
            given = isinstance(self.sent[place], dict) and not {"listing_id", "id"}.isdisjoint(self.sent[place])
            results.append(
                Result(
                    index=place,
                    relevance_score=item.score,
                    listing_id=listings[item.place].listing_id if given else None,
                    reason=item.reason,
                    evidence=list(item.evidence) or None,
                )
            )
        if len(results) == len(listings):
            results += [Result(index=place, relevance_score=0.0) for place in self.documents.blank]
        return results[: self.wanted]

    def response(self, shape: Shape) -> Response:
        """The response in a shape."""
        match shape:
            case "tei":
                rows = [self._tei(result).model_dump(exclude_none=True) for result in self.results()]
                return JSONResponse(rows, headers=tier_headers(self.answer))
            case "voyage":
                body: RerankResponse | VoyageResponse = self._voyage()
            case _:
                body = self.cohere()
        return Response(
            body.model_dump_json(exclude_none=True), media_type="application/json", headers=tier_headers(self.answer)
        )

    def _text(self, result: Result) -> str | None:
        return document_text(self.sent[result.index]) if self.with_documents else None

    def _tei(self, result: Result) -> TeiResult:
        return TeiResult(
            index=result.index, score=result.relevance_score, text=self._text(result), reason=result.reason
        )

    def _voyage(self) -> VoyageResponse:
        return VoyageResponse(
            data=[
                VoyageResult(**result.model_dump(exclude={"document"}), document=self._text(result))
                for result in self.results()
            ],
            model=self.model,
            usage=VoyageUsage(total_tokens=self._total()),
            genrank=self._details(),
        )

    def cohere(self) -> RerankResponse:
        """The body of the response to Cohere's, Jina's and vLLM's clients."""
        tokens = self.answer.tokens
        results = self.results()
        if self.with_documents:
            for result in results:
                sent = self.sent[result.index]
                result.document = {**(sent if isinstance(sent, dict) else {}), "text": self._text(result)}
        return RerankResponse(
            id=self.request_id,
            model=self.model,
            results=results,
            usage=Usage(prompt_tokens=tokens.prompt, total_tokens=self._total()),
            meta={
                "api_version": {"version": self.version},
                "billed_units": {"search_units": 1},
                "tokens": {"input_tokens": tokens.prompt, "output_tokens": tokens.completion},
            },
            genrank=self._details(),
        )

    def _total(self) -> int:
        return self.answer.tokens.prompt + self.answer.tokens.completion

    def _details(self) -> Details:
        answer = self.answer
        return Details(
            tier=answer.tier,
            outcome=answer.outcome,
            cause=answer.cause,
            reasons_missing=answer.reasons_missing,
            cached=self.cached,
            decoding=answer.decoding,
            prompt=answer.prompt,
            prompt_hash=answer.prompt_hash,
            windows=answer.windows,
            kept=answer.kept,
            neutralised=answer.neutralised,
            cuts=dict(answer.cuts),
        )


def tier_headers(answer: Answer) -> dict[str, str]:
    """The headers that say how good an answer is."""
    return {"X-Genrank-Tier": answer.tier, "X-Genrank-Outcome": answer.outcome}


def error_response(error: ApiError, shape: Shape = "cohere") -> Response:
    """An error in a shape."""
    body: ErrorResponse | TeiErrorResponse
    if shape == "tei":
        empty = error.field == "texts" and error.status == 400
        kind = "Empty" if empty else _TEI_TYPES.get(error.status, "Backend")
        body = TeiErrorResponse(error=error.message, error_type=kind)
    else:
        details = ErrorDetails(
            message=error.message,
            type=_TYPES.get(error.status, "api_error"),
            param=error.field or None,
            code=error.status,
        )
        body = ErrorResponse(message=error.message, detail=error.message, error=details)
    return Response(
        body.model_dump_json(), status_code=error.status, media_type="application/json", headers=dict(error.headers)
    )
