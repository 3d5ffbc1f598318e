"""The ASGI app: routes that translate between HTTP and the `Gateway`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

import genrank
from genrank.server.auth import Keys, RateLimit
from genrank.server.calls import Calls
from genrank.server.edge import SEARCH_PATHS, Edge, Record, known_path
from genrank.server.errors import ApiError
from genrank.server.gateway import Gateway
from genrank.server.playground.pages import OPEN_PATHS
from genrank.server.playground.routes import add_playground
from genrank.server.schemas import (
    EXAMPLES,
    ErrorResponse,
    RerankRequest,
    RerankResponse,
    TeiErrorResponse,
    TeiResult,
    VoyageResponse,
)
from genrank.server.shapes import error_response
from genrank.server.telemetry import Tracing

if TYPE_CHECKING:
    from genrank.server.search import Searcher

_WORDS = {
    400: "No texts (TEI)",
    401: "Missing or unknown key",
    404: "Unknown model, or search",
    408: "The body did not arrive in time",
    413: "Too large",
    422: "A field is wrong, and named",
    429: "Too many requests; `Retry-After` says when to try again",
    503: "The model is down, and the server is set to refuse then",
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse | TeiErrorResponse, "description": words} for status, words in _WORDS.items()
}


def create_app(gateway: Gateway, keys: Sequence[str] = (), *, tracing: Tracing | None = None) -> FastAPI:
    """Make the app.

    Args:
        gateway: Answers; closed when the app shuts down.
        keys: The keys that may call; without any, everyone may.
        tracing: In place of what the configuration says.
    """
    config = gateway.config
    tracing = tracing or Tracing(config.telemetry)
    searcher = _searcher(gateway)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await gateway.close()
        if searcher is not None:
            await asyncio.to_thread(searcher.close)
        await asyncio.to_thread(tracing.close)

    app = FastAPI(
        title="genrank",
        version=genrank.__version__,
        description="Re-orders search results with a language model.",
        docs_url=None,  # it would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # the edge removes them
        lifespan=lifespan,
    )
    bodies: dict[str, type[BaseModel]] = {"RerankRequest": RerankRequest}
    calls = Calls(gateway)
    routes = _Routes(gateway, calls, tracing)
    answers = RerankResponse | VoyageResponse | list[TeiResult]
    for path, answer in (
        ("/v2/rerank", RerankResponse | list[TeiResult]),
        ("/v1/rerank", answers),
        ("/rerank", answers),
    ):
        app.add_api_route(
            path,
            routes.rerank,
            methods=["POST"],
            name="rerank",
            operation_id="rerank" + path.removesuffix("/rerank").replace("/", "_"),
            summary="Rank documents for a query",
            response_model=None,
            responses={200: {"model": answer}, **_ERRORS},
            openapi_extra={"requestBody": _REQUEST_BODY},
        )
    app.add_api_route("/info", routes.info, summary="What is served")
    app.add_api_route("/v1/models", routes.models, summary="The names of the model")
    app.add_api_route("/health", routes.health, summary="Whether the process lives")
    app.add_api_route(
        "/ready", routes.ready, summary="Whether requests get an answer", responses={503: {"description": "Not ready"}}
    )
    app.add_api_route("/metrics", routes.metrics, response_class=Response, summary="Prometheus metrics")
    searches = None
    if searcher is not None:
        from genrank.server.search_routes import SEARCH_BODIES, add_search

        searches = add_search(app, gateway, calls, searcher, tracing, _ERRORS)
        bodies |= SEARCH_BODIES
    if config.server.has_playground:
        add_playground(app, gateway, calls, searches)
    app.add_exception_handler(HTTPException, _http_error)
    app.openapi = lambda: _openapi(app, bodies)  # type: ignore[method-assign]
    app.add_middleware(
        Edge,
        keys=Keys(keys),
        rate=RateLimit(config.auth.rate_limit),
        metrics=gateway.metrics,
        open_paths=OPEN_PATHS if config.server.has_playground else frozenset(),
    )
    return app


def _searcher(gateway: Gateway) -> Searcher | None:
    """What searches; None where the configuration names no index."""
    if gateway.config.search.index is None:
        return None
    from genrank.server.search import Searcher  # needs the extra search

    return Searcher.of(gateway)


class _Routes:
    """The routes of one app."""

    def __init__(self, gateway: Gateway, calls: Calls, tracing: Tracing) -> None:
        self._gateway = gateway
        self._config = gateway.config
        self._calls = calls
        self._tracing = tracing
        self._started = int(time.time())

    async def rerank(self, request: Request) -> Response:
        """Rank documents for a query."""
        return await self._calls.respond(request, self._rerank)

    async def _rerank(self, request: Request, record: Record) -> Response:
        call = await self._calls.read(request, record, RerankRequest)
        documents = len(call.sent)
        with self._tracing.rerank(call.model, documents, request.headers) as span:
            answer, reply = await self._calls.rank(request, record, call)
            span.set_attribute("gen_ai.usage.input_tokens", answer.tokens.prompt)
            span.set_attribute("gen_ai.usage.output_tokens", answer.tokens.completion)
            span.set_attribute("reranker.top_k", call.asked.wanted or documents)
            for key in ("tier", "outcome", "cause"):
                span.set_attribute(f"genrank.{key}", getattr(answer, key))
        return reply.response(record.shape)

    async def info(self) -> dict[str, Any]:
        """What is served; `model_type` is what TEI's clients look for."""
        limits, first = self._config.limits, self._gateway.first
        return {
            "model_id": self._gateway.names[0],
            "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
            "max_client_batch_size": limits.documents,
            "max_input_length": first.max_prompt_tokens,
            "version": genrank.__version__,
            "decoding": first.decoding,
            "prompt": f"{first.template.name}@{first.template.version}",
            "prompt_hash": first.template.digest,
            "fingerprint": self._gateway.ranker.fingerprint,
        }

    async def models(self) -> dict[str, Any]:
        """The names of the model."""
        names = self._gateway.names
        rows = [{"id": name, "object": "model", "created": self._started, "owned_by": "genrank"} for name in names]
        return {"object": "list", "data": rows}

    async def health(self) -> dict[str, str]:
        """Whether the process lives."""
        return {"status": "ok"}

    async def ready(self) -> Response:
        """Whether requests get an answer."""
        ready = self._gateway.ready
        body = {"status": "ready" if ready else "not ready", "breaker": self._gateway.breaker.state}
        return JSONResponse(body, status_code=200 if ready else 503)

    async def metrics(self) -> Response:
        """Prometheus metrics."""
        return Response(self._gateway.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _http_error(request: Request, error: Exception) -> Response:
    """Errors of routing, such as an unknown path."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    nothing = "there is nothing at this path"
    if known_path(request.scope["path"]) in SEARCH_PATHS:
        nothing += " on this server; [search] of its configuration needs an index; a log or shoppers keep things, "
        nothing += "and genrank complete makes suggestions"
    words = {404: nothing, 405: "this path does not take this method"}
    response = error_response(ApiError(status, words.get(status, "the request cannot be read")))
    response.headers.update(getattr(error, "headers", None) or {})
    return response


_REFERENCE = "#/components/schemas/{model}"
_REQUEST_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": {"$ref": _REFERENCE.format(model="RerankRequest")}, "examples": EXAMPLES}
    },
}


def _openapi(app: FastAPI, bodies: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """The OpenAPI document; routes read their bodies themselves, so the requests' schemas are added here."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        parts = document.setdefault("components", {}).setdefault("schemas", {})
        for name, body in bodies.items():
            schema = body.model_json_schema(ref_template=_REFERENCE)
            parts |= schema.pop("$defs", {}) | {name: schema}
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
        app.openapi_schema = document
    return app.openapi_schema
