"""What the playground asks the gateway: what it can do, the sample shop, a ranking, a prompt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, StrictInt, StrictStr

import genrank
from genrank.data.dataset import Dataset, sample_shop
from genrank.data.jsonl import interaction_fields
from genrank.remote.pieces import PieceTokenizer
from genrank.reranker import Reranker
from genrank.server.calls import Calls
from genrank.server.edge import Record
from genrank.server.errors import ApiError, invalid
from genrank.server.gateway import Gateway
from genrank.server.playground.pages import FILES, page
from genrank.server.playground.readings import SERVED, Reading, find_readings
from genrank.server.schemas import RerankRequest, RerankResponse
from genrank.types import Request as RerankCall

if TYPE_CHECKING:
    from genrank.server.search_routes import SearchRoutes


class PlaygroundRequest(RerankRequest):
    """A rerank request that says how to rank."""

    reading: StrictStr | None = None
    prompt: Annotated[StrictInt, Field(ge=0)] | None = None


class Timing(BaseModel):
    """Where the time went, in seconds.

    Attributes:
        gateway: From the request's arrival to its answer.
        ranking: In the reranker, both stages together; of a cached answer, when it was made.
        second_stage: In a cascade's second stage; None without one.
    """

    gateway: float
    ranking: float
    second_stage: float | None


class PlaygroundResponse(RerankResponse):
    """A ranking, and what else is known of it."""

    reading: str
    strategy: str
    agreement: float | None
    seconds: Timing


class Section(BaseModel):
    """A part of a prompt, token by token."""

    name: str
    tokens: list[str]


class PromptResponse(BaseModel):
    """A prompt.

    Attributes:
        sections: Its parts, in order; joined, their tokens are the text that the model reads.
        listings: Places of the documents that it shows, in its order; 0-based.
        prompts: How many prompts the first batch has.
        cuts: Tokens cut from each section.
        exact: Whether the tokens are the model's own; false where a server has the tokenizer.
    """

    sections: list[Section]
    listings: list[int]
    prompts: int
    cuts: dict[str, int]
    exact: bool


def add_playground(app: FastAPI, gateway: Gateway, calls: Calls, searches: SearchRoutes | None = None) -> None:
    """Add the playground's routes to an app; `searches` are those of an app that searches."""
    routes = _Playground(gateway, calls, searches)
    for path in FILES:
        app.add_api_route(path, routes.file, include_in_schema=False)
    app.add_api_route("/playground/setup", routes.setup, include_in_schema=False)
    app.add_api_route("/playground/shop", routes.shop, include_in_schema=False)
    app.add_api_route("/playground/rerank", routes.rerank, methods=["POST"], include_in_schema=False)
    app.add_api_route("/playground/prompt", routes.prompt, methods=["POST"], include_in_schema=False)
    if searches is not None:
        app.add_api_route("/playground/search", routes.search, methods=["POST"], include_in_schema=False)


class _Playground:
    def __init__(self, gateway: Gateway, calls: Calls, searches: SearchRoutes | None) -> None:
        self._gateway = gateway
        self._calls = calls
        self._searches = searches
        self._found: asyncio.Future[Mapping[str, Reading]] | None = None

    async def file(self, request: Request) -> Response:
        """A file of the page."""
        return page(request.scope["path"])

    async def setup(self) -> Response:
        """What the page can offer."""
        limits = self._gateway.config.limits
        readings = await self._readings()
        body = {
            "model": self._gateway.names[0],
            "version": genrank.__version__,
            "reasons": limits.reasons,
            "readings": [
                {
                    "name": name,
                    "decoding": one.decoding,
                    "prompt": one.prompt,
                    "then": one.then,
                    "reasons": one.reasons,
                }
                for name, one in readings.items()
            ],
            "search": self._searches.offer() if self._searches else None,
        }
        return JSONResponse(body)

    async def shop(self) -> Response:
        """The sample shop's queries and listings."""
        return JSONResponse(_shop_fields(await asyncio.to_thread(sample_shop)))

    async def rerank(self, request: Request) -> Response:
        """Rank documents, as ``/v2/rerank`` does, by any of the readings."""
        return await self._calls.respond(request, self._rerank)

    async def prompt(self, request: Request) -> Response:
        """A prompt that the first batch of a request would show the model."""
        return await self._calls.respond(request, self._prompt)

    async def search(self, request: Request) -> Response:
        """Search as ``/v1/search`` does, and log nothing; the answer holds the titles of all candidates too."""
        return await self._calls.respond(request, self._search)

    async def _search(self, request: Request, record: Record) -> Response:
        if self._searches is None:
            raise ApiError(404, "this server searches nothing")
        body, found = await self._searches.found(request, record, logged=False)
        titles = await self._searches.titles(found)
        return JSONResponse({**body, "titles": titles, "seconds": time.monotonic() - record.arrived})

    async def _rerank(self, request: Request, record: Record) -> Response:
        call = await self._calls.read(request, record, PlaygroundRequest)
        name, reading = await self._reading(call.asked)
        answer, reply = await self._calls.rank(request, record, call, reading.ranker)
        body = PlaygroundResponse(
            **reply.cohere().model_dump(),
            reading=name,
            strategy=answer.strategy,
            agreement=answer.agreement,
            seconds=Timing(
                gateway=time.monotonic() - record.arrived,
                ranking=answer.seconds,
                second_stage=answer.second_stage,
            ),
        )
        return Response(body.model_dump_json(exclude_none=True), media_type="application/json")

    async def _prompt(self, request: Request, record: Record) -> Response:
        call = await self._calls.read(request, record, PlaygroundRequest)
        _, reading = await self._reading(call.asked)
        if not call.documents.candidates:
            raise invalid(call.field, "no document holds a visible character; give one a title")
        with call.errors():
            shown = await asyncio.to_thread(_show, reading.shows, self._calls.request(call), call.asked.prompt or 0)
        places = [call.documents.places[place] for place in shown.listings]
        return JSONResponse(shown.model_copy(update={"listings": places}).model_dump())

    async def _readings(self) -> Mapping[str, Reading]:
        """The readings, found when they are first asked for."""
        if self._found is None:
            work = asyncio.to_thread(find_readings, self._gateway.ranker, self._gateway.config.model)
            self._found = asyncio.ensure_future(work)
        return await asyncio.shield(self._found)

    async def _reading(self, asked: PlaygroundRequest) -> tuple[str, Reading]:
        readings = await self._readings()
        name = asked.reading or SERVED
        if name not in readings:
            raise invalid("reading", f"there is no {name[:80]!r}; this model has {', '.join(readings)}")
        return name, readings[name]


def _show(ranker: Reranker, request: RerankCall, number: int) -> PromptResponse:
    """One of the prompts of a request's first batch."""
    prompts = ranker.first_prompts(request)
    if number >= len(prompts):
        raise invalid("prompt", f"the first batch has {len(prompts)} prompts, so at most {len(prompts) - 1}")
    prompt = prompts[number]()
    tokenizer = ranker.engine.tokenizer
    texts = iter(tokenizer.texts(prompt.ids))
    places = {candidate.listing.listing_id: i for i, candidate in enumerate(request.candidates)}
    return PromptResponse(
        sections=[
            Section(name=name, tokens=[next(texts) for _ in range(count)])
            for name, count in prompt.tokens.items()
            if count
        ],
        listings=[places[listing_id] for listing_id in prompt.listing_ids],
        prompts=len(prompts),
        cuts=dict(prompt.cuts),
        exact=not isinstance(tokenizer, PieceTokenizer),
    )


def _shop_fields(shop: Dataset) -> dict[str, Any]:
    """The sample shop as the page reads it: listings by id, and queries that name them."""
    queries = []
    for query in shop.queries:
        request = shop.request(query)
        queries.append(
            {
                "query_id": query.query.query_id,
                "query": query.query.text,
                "history": [interaction_fields(one) for one in request.history],
                "documents": [
                    {"listing_id": candidate.listing.listing_id, "score": candidate.score}
                    for candidate in request.candidates
                ],
            }
        )
    return {"listings": [listing.to_dict() for listing in shop.listings.values()], "queries": queries}
