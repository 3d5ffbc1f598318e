"""The ASGI app: routes that translate between HTTP and the `Gateway`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any, TypeVar

import pydantic
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

import genrank
from genrank.errors import BudgetError, InputError
from genrank.inputs import make_query
from genrank.server.answers import Answer
from genrank.server.auth import Keys, RateLimit
from genrank.server.batching import QueueFullError
from genrank.server.documents import Documents, read_documents
from genrank.server.edge import Edge, Record, record_of
from genrank.server.errors import ApiError, invalid, of_input, of_validation, too_large
from genrank.server.gateway import DownError, Gateway
from genrank.server.limits import parse_object, read_body
from genrank.server.privacy import masked
from genrank.server.schemas import (
    EXAMPLES,
    ErrorResponse,
    RerankRequest,
    RerankResponse,
    TeiErrorResponse,
    TeiResult,
    VoyageResponse,
)
from genrank.server.shapes import Reply, error_response, shape_of
from genrank.server.telemetry import Tracing
from genrank.types import Query
from genrank.types import Request as RerankCall

T = TypeVar("T")

_WORDS = {
    400: "No texts (TEI)",
    401: "Missing or unknown key",
    404: "Unknown model",
    408: "The body did not arrive in time",
    413: "Too large",
    422: "A field is wrong, and named",
    429: "Too many requests; `Retry-After` says when to try again",
    503: "The model is down, and the server is set to refuse then",
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse | TeiErrorResponse, "description": words} for status, words in _WORDS.items()
}
_CLIENT_GONE = 499


class _GoneError(Exception):
    """The client has hung up."""


def create_app(gateway: Gateway, keys: Sequence[str] = (), *, tracing: Tracing | None = None) -> FastAPI:
    """Make the app.

    Args:
        gateway: Answers; closed when the app shuts down.
        keys: The keys that may call; without any, everyone may.
        tracing: In place of what the configuration says.
    """
    config = gateway.config
    tracing = tracing or Tracing(config.telemetry)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await gateway.close()
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
    routes = _Routes(gateway, tracing)
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
    app.add_exception_handler(HTTPException, _http_error)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    app.add_middleware(Edge, keys=Keys(keys), rate=RateLimit(config.auth.rate_limit), metrics=gateway.metrics)
    return app


class _Routes:
    """The routes of one app."""

    def __init__(self, gateway: Gateway, tracing: Tracing) -> None:
        self._gateway = gateway
        self._config = gateway.config
        self._tracing = tracing
        self._started = int(time.time())

    async def rerank(self, request: Request) -> Response:
        """Rank documents for a query."""
        record = record_of(request.scope)
        try:
            return await self._rerank(request, record)
        except ApiError as error:
            return error_response(error, record.shape)
        except InputError as error:
            return error_response(of_input(error), record.shape)
        except QueueFullError as error:
            wait = error.retry_after
            full = ApiError(429, f"too many requests wait; try again in {wait} s", retry_after=wait)
            return error_response(full, record.shape)
        except DownError:
            wait = max(1, round(self._config.breaker.cool_down))
            down = ApiError(503, f"the model is down; try again in {wait} s", retry_after=wait)
            return error_response(down, record.shape)
        except (_GoneError, ClientDisconnect):
            return Response(status_code=_CLIENT_GONE)

    async def _rerank(self, request: Request, record: Record) -> Response:
        limits = self._config.limits
        path = request.scope["path"]
        ends = record.arrived + self._config.server.deadline
        body = await read_body(request, most=limits.body, seconds=ends - time.monotonic())
        fields = parse_object(body)
        record.shape = shape_of(path, fields)
        try:
            asked = RerankRequest.model_validate(fields)
        except pydantic.ValidationError as error:
            raise of_validation(error) from None
        name = self._model(asked.model)
        field = "documents" if asked.texts is None else "texts"
        sent = asked.documents if asked.texts is None else asked.texts
        self._check_sizes(asked, sent, field)
        query = self._query(asked)
        documents = read_documents(sent or (), field=field, rank_fields=asked.rank_fields, most_text=limits.text)
        record.documents, record.history, record.reasons = len(sent or ()), len(asked.history or ()), asked.reasons or 0
        with self._tracing.rerank(name, len(sent or ()), request.headers) as span:
            answer, cached = await _unless_gone(request, self._answer(asked, query, documents, field, ends))
            span.set_attribute("gen_ai.usage.input_tokens", answer.tokens.prompt)
            span.set_attribute("gen_ai.usage.output_tokens", answer.tokens.completion)
            span.set_attribute("reranker.top_k", asked.wanted or len(sent or ()))
            for key in ("tier", "outcome", "cause"):
                span.set_attribute(f"genrank.{key}", getattr(answer, key))
        record.tier, record.outcome, record.cause = answer.tier, answer.outcome, answer.cause or None
        record.cached = cached
        reply = Reply(
            request_id=record.request_id,
            version="2" if path.startswith("/v2/") else "1",
            model=name,
            sent=sent or (),
            documents=documents,
            answer=answer,
            cached=cached,
            wanted=asked.wanted,
            with_documents=bool(asked.return_documents or asked.return_text),
        )
        return reply.response(record.shape)

    async def _answer(
        self, asked: RerankRequest, query: Query, documents: Documents, field: str, ends: float
    ) -> tuple[Answer, bool]:
        if not documents.candidates:  # only blank documents: there is nothing to read
            return Answer((), tier="model", outcome="model"), False
        history = masked(asked.history or (), self._config.privacy.mask)
        call = RerankCall(query, documents.candidates, history)
        try:
            return await self._gateway.rerank(call, top_k=asked.wanted, reasons=asked.reasons or 0, ends=ends)
        except InputError as error:
            if not isinstance(error, BudgetError) and error.field != "window":
                raise _renamed(error, documents, field) from None
            message = f"{field}: too many or too long for one prompt of this model; send fewer or shorter ones"
            raise ApiError(413, message, field=field) from None

    def _model(self, name: str | None) -> str:
        names = self._gateway.names
        if name is not None and name not in names:
            raise ApiError(404, f"model: there is no {name[:80]!r}; this server has {', '.join(names)}", field="model")
        return name or names[0]

    def _check_sizes(self, asked: RerankRequest, sent: Sequence[Any] | None, field: str) -> None:
        limits = self._config.limits
        if sent is None:
            raise invalid("documents", "this field is required; give it a list of texts or objects")
        if not sent:
            status = 400 if field == "texts" else 422  # as TEI has it
            raise ApiError(status, f"{field}: must hold at least one document", field=field)
        if len(sent) > limits.documents:
            raise too_large(field, "documents", limits.documents, len(sent))
        for name, text in (("query", asked.query), ("instruction", asked.instruction or "")):
            if len(text) > limits.text:
                raise too_large(name, "characters", limits.text, len(text))
        if len(asked.history or ()) > limits.history:
            raise too_large("history", "interactions", limits.history, len(asked.history or ()))
        if (asked.reasons or 0) > limits.reasons:
            raise invalid("reasons", f"must be at most {limits.reasons}, got {asked.reasons}; ask for fewer")

    def _query(self, asked: RerankRequest) -> Query:
        query = make_query(asked.query)
        if not (asked.instruction or "").strip():
            return query
        if self._config.model.instructions == "refuse":
            raise invalid(
                "instruction",
                "the prompt of this model has no place for one; leave it out, or set model.instructions = "
                '"query" on the server to add it to the query',
            )
        return make_query(f"{asked.query} ({asked.instruction})")

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


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is stopped when the client hangs up.

    Raises:
        _GoneError: When it did.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise _GoneError
    finally:
        leaving.cancel()
        working.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _renamed(error: InputError, documents: Documents, field: str) -> InputError:
    """An error of a candidate as one of the document that it was."""
    name, _, rest = error.field.partition("]")
    if not name.startswith("candidates["):
        return error
    place = documents.places[int(name.removeprefix("candidates["))]
    message = str(error).removeprefix(f"{error.field}: ")
    return InputError(message, field=f"{field}[{place}]{rest}")


async def _http_error(_: Request, error: Exception) -> Response:
    """Errors of routing, such as an unknown path."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    words = {404: "there is nothing at this path", 405: "this path does not take this method"}
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


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document; routes read their bodies themselves, so the request's schema is added here."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schema = RerankRequest.model_json_schema(ref_template=_REFERENCE)
        parts = document.setdefault("components", {}).setdefault("schemas", {})
        parts |= schema.pop("$defs", {}) | {"RerankRequest": schema}
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
        app.openapi_schema = document
    return app.openapi_schema
