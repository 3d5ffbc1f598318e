"""The routes of searches, events and forgetting, where the gateway has an index."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from genrank.cascade import Cascade
from genrank.errors import BudgetError, InputError
from genrank.inputs import at, make_query
from genrank.search.filters import Filters
from genrank.search.shoppers import check_user
from genrank.server.calls import Calls, unless_gone, validated
from genrank.server.edge import Record
from genrank.server.errors import ApiError, invalid, too_large
from genrank.server.gateway import Gateway
from genrank.server.search import Asked, Found, Searcher
from genrank.server.search_schemas import (
    EVENT_EXAMPLES,
    SEARCH_EXAMPLES,
    CompleteRequest,
    CompleteResponse,
    EventRequest,
    EventResponse,
    ForgottenResponse,
    SearchFilters,
    SearchRequest,
    SearchResponse,
)
from genrank.server.shapes import tier_headers
from genrank.server.telemetry import Tracing

SEARCH_BODIES: Mapping[str, type[BaseModel]] = {"SearchRequest": SearchRequest, "EventRequest": EventRequest}
"""What the routes read, by the name of its schema."""


def add_search(
    app: FastAPI, gateway: Gateway, calls: Calls, searcher: Searcher, tracing: Tracing, errors: dict[int | str, Any]
) -> SearchRoutes:
    """Add the routes to an app; those of events and forgetting only where something is kept.

    Args:
        app: The app.
        gateway: Ranks.
        calls: Reads requests.
        searcher: Searches.
        tracing: Traces searches.
        errors: The errors of all routes, for the OpenAPI document.
    """
    routes = SearchRoutes(gateway, calls, searcher, tracing)

    def add(
        path: str,
        method: str,
        work: Any,
        summary: str,
        model: Any,
        body: str = "",
        examples: Any = None,
        asked: type[BaseModel] | None = None,
    ) -> None:
        schema = {"schema": {"$ref": f"#/components/schemas/{body}"}, "examples": examples}
        extra: dict[str, Any] = (
            {"requestBody": {"required": True, "content": {"application/json": schema}}} if body else {}
        )
        if asked is not None:
            extra = {"parameters": _parameters(asked)}
        app.add_api_route(
            path,
            work,
            methods=[method],
            summary=summary,
            response_model=None,
            responses={200: {"model": model}, **errors},
            openapi_extra=extra,
        )

    add("/v1/search", "POST", routes.search, "Search", SearchResponse, "SearchRequest", SEARCH_EXAMPLES)
    if searcher.parts.completion is not None:
        what = "Suggest queries for what has been typed so far"
        add("/v1/complete", "GET", routes.complete, what, CompleteResponse, asked=CompleteRequest)
    if searcher.parts.log is not None:
        what = "Log what a shopper did with a listing that a search showed"
        add("/v1/events", "POST", routes.event, what, EventResponse, "EventRequest", EVENT_EXAMPLES)
    if searcher.parts.log is not None or searcher.parts.shoppers is not None:
        what = "Remove a shopper from everything that is kept"
        add("/v1/shoppers/{user_id:path}", "DELETE", routes.forget, what, ForgottenResponse)
    return routes


class SearchRoutes:
    """The routes of one app."""

    def __init__(self, gateway: Gateway, calls: Calls, searcher: Searcher, tracing: Tracing) -> None:
        self._gateway = gateway
        self._config = gateway.config
        self._calls = calls
        self._searcher = searcher
        self._tracing = tracing

    async def search(self, request: Request) -> Response:
        """Search."""

        async def work(request: Request, record: Record) -> Response:
            return _response(*await self.found(request, record))

        return await self._calls.respond(request, work)

    async def complete(self, request: Request) -> Response:
        """Suggest queries for what has been typed so far."""

        async def work(request: Request, _: Record) -> Response:
            asked = validated(CompleteRequest, dict(request.query_params))
            found = await self._searcher.complete(asked.prefix, asked.count)
            return JSONResponse({"prefix": asked.prefix, "suggestions": [one.to_dict() for one in found]})

        return await self._calls.respond(request, work)

    async def event(self, request: Request) -> Response:
        """Log what a shopper did with a listing that a search showed."""
        return await self._calls.respond(request, self._event)

    async def forget(self, user_id: str, request: Request) -> Response:
        """Remove a shopper from everything that is kept."""

        async def work(*_: object) -> Response:
            check_user(user_id)
            interactions, impressions, events = await self._searcher.forget(user_id)
            body = ForgottenResponse(interactions=interactions, impressions=impressions, events=events)
            return JSONResponse(body.model_dump())

        return await self._calls.respond(request, work)

    async def found(self, request: Request, record: Record, *, logged: bool = True) -> tuple[dict[str, Any], Found]:
        """What a search found, unless the client hangs up: the body of its response, and what is known besides.

        Args:
            request: The request.
            record: Gets its sizes and outcome.
            logged: Whether what it shows is logged.
        """
        asked = self._asked(validated(SearchRequest, await self._calls.fields(request, record)), record, logged)
        record.history, record.reasons = len(asked.history), asked.reasons
        with self._tracing.search(self._gateway.names[0], request.headers) as span:
            try:
                found = await unless_gone(request, self._searcher.search(asked))
            except InputError as error:
                if not isinstance(error, BudgetError) and error.field != "window":
                    raise
                message = "the listings that it finds are too many or too long for one prompt of this model"
                raise ApiError(413, f"query: {message}; lower search.candidates on the server", field="query") from None
            answer, result = found.answer, found.result
            record.documents, record.cached = result.found, found.cached
            record.tier, record.outcome, record.cause = answer.tier, answer.outcome, answer.cause or None
            span.set_attribute("genrank.documents", result.found)
            span.set_attribute("gen_ai.usage.input_tokens", answer.tokens.prompt)
            span.set_attribute("gen_ai.usage.output_tokens", answer.tokens.completion)
            for key in ("tier", "outcome", "cause"):
                span.set_attribute(f"genrank.{key}", getattr(answer, key))
            for stage in result.stages:
                span.set_attribute(f"genrank.stage.{stage.name}.seconds", stage.seconds)
        return {"items": [], **result.to_dict(), "tier": answer.tier}, found

    async def titles(self, found: Found) -> dict[str, str]:
        """The titles of all candidates of a search, by id."""
        ids = {listing_id: None for stage in found.result.stages for listing_id in stage.order}
        return await self._searcher.titles(list(ids))

    def offer(self) -> dict[str, Any]:
        """What a search can be asked for, besides its query."""
        last = self._gateway.ranker.second if isinstance(self._gateway.ranker, Cascade) else self._gateway.first
        config = self._config.search
        return {
            "users": self._searcher.parts.shoppers is not None,
            "reasons": bool(last.template.reason),
            "completion": self._searcher.parts.completion is not None,
            "variety": config.variety,
            "candidates": config.candidates,
        }

    async def _event(self, request: Request, record: Record) -> Response:
        asked = validated(EventRequest, await self._calls.fields(request, record))
        moment = _utc(asked.time)
        if asked.user_id is not None:
            check_user(asked.user_id)
        shown = await self._searcher.shown(asked.request_id)
        if shown is None:
            message = "request_id: no such search is in the log; send the request_id of its answer"
            raise ApiError(404, message, field="request_id")
        if asked.listing_id not in shown:
            raise invalid("listing_id", "this search did not show it; send one of its answer's")
        await self._searcher.happened(
            asked.request_id,
            asked.listing_id,
            asked.event,
            time=moment,
            event_id=asked.event_id,
            user_id=asked.user_id,
        )
        body = EventResponse(request_id=asked.request_id, listing_id=asked.listing_id, event=asked.event, time=moment)
        return Response(body.model_dump_json(), media_type="application/json")

    def _asked(self, body: SearchRequest, record: Record, logged: bool) -> Asked:
        """The search that a body asks for."""
        limits, most = self._config.limits, self._config.server.deadline
        if len(body.query) > limits.text:
            raise too_large("query", "characters", limits.text, len(body.query))
        if len(body.history or ()) > limits.history:
            raise too_large("history", "interactions", limits.history, len(body.history or ()))
        if (body.reasons or 0) > limits.reasons:
            raise invalid("reasons", f"must be at most {limits.reasons}, got {body.reasons}; ask for fewer")
        if body.deadline is not None and body.deadline > most:
            raise invalid("deadline", f"must be at most {most:g}, the server's own, got {body.deadline:g}")
        if body.user_id is not None:
            check_user(body.user_id)
        seconds = body.deadline or most
        return Asked(
            query=make_query(body.query),
            request_id=record.request_id,
            ends=record.arrived + seconds,
            seconds=seconds,
            user_id=body.user_id,
            history=body.history or (),
            filters=_filters(body.filters),
            top_k=body.top_k or None,
            reasons=body.reasons or 0,
            variety=body.variety,
            logged=logged,
        )


def _parameters(schema: type[BaseModel]) -> list[dict[str, Any]]:
    """The fields of a schema as parameters of an address, for the OpenAPI document."""
    found = schema.model_json_schema()
    required = found.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": field}
        for name, field in found["properties"].items()
    ]


def _filters(asked: SearchFilters | None) -> Filters | None:
    if asked is None:
        return None
    with at("filters"):
        return Filters(**asked.model_dump(exclude_none=True))


def _response(body: dict[str, Any], found: Found) -> Response:
    return JSONResponse(body, headers=tier_headers(found.answer))


def _utc(moment: datetime | None) -> datetime:
    """A time in UTC, which one without a zone already is; None is now."""
    if moment is None:
        return datetime.now(UTC)
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError:
        raise invalid("time", f"is beyond what a calendar holds in UTC, got {moment.isoformat()}") from None
