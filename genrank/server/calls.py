"""A rerank call over HTTP: its body read and checked, ranked within its deadline, its errors turned into responses."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pydantic
from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from genrank.errors import BudgetError, InputError
from genrank.inputs import make_query
from genrank.reranker import Reranker
from genrank.server.answers import Answer
from genrank.server.batching import QueueFullError
from genrank.server.documents import Documents, read_documents
from genrank.server.edge import Record, record_of
from genrank.server.errors import ApiError, invalid, of_input, of_validation, too_large
from genrank.server.gateway import DownError, Gateway
from genrank.server.limits import parse_object, read_body
from genrank.server.privacy import masked
from genrank.server.schemas import RerankRequest
from genrank.server.shapes import Reply, error_response, shape_of
from genrank.types import Query
from genrank.types import Request as RerankCall

T = TypeVar("T")
A = TypeVar("A", bound=RerankRequest)
M = TypeVar("M", bound=pydantic.BaseModel)

_CLIENT_GONE = 499


class _GoneError(Exception):
    """The client has hung up."""


@dataclass(frozen=True)
class Call(Generic[A]):
    """A request that was read and checked.

    Attributes:
        path: Where it was sent.
        asked: Its body.
        model: The model's name as clients know it.
        query: The query.
        sent: The documents as they were sent.
        documents: What was read of them.
        field: The documents' field, ``documents`` or ``texts``.
        ends: When the answer must be there, on the clock of ``time.monotonic()``.
    """

    path: str
    asked: A
    model: str
    query: Query
    sent: Sequence[Any]
    documents: Documents
    field: str
    ends: float

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn errors about candidates into errors about the documents that they were."""
        try:
            yield
        except InputError as error:
            if not isinstance(error, BudgetError) and error.field != "window":
                raise _renamed(error, self.documents, self.field) from None
            message = f"{self.field}: too many or too long for one prompt of this model; send fewer or shorter ones"
            raise ApiError(413, message, field=self.field) from None


class Calls:
    """Reads and answers the calls of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._config = gateway.config

    async def respond(self, request: Request, work: Callable[[Request, Record], Awaitable[Response]]) -> Response:
        """The response that `work` makes, or that its error means."""
        record = record_of(request.scope)
        try:
            return await work(request, record)
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

    async def fields(self, request: Request, record: Record) -> dict[str, Any]:
        """The object in a request's body.

        Raises:
            ApiError: When there is none, or it is too large or late.
        """
        left = record.arrived + self._config.server.deadline - time.monotonic()
        return parse_object(await read_body(request, most=self._config.limits.body, seconds=left))

    async def read(self, request: Request, record: Record, schema: type[A]) -> Call[A]:
        """Read and check a request.

        Args:
            request: The request.
            record: Gets the request's shape and sizes.
            schema: What its body must fit.

        Raises:
            ApiError: When something is wrong with it.
            InputError: When a field is wrong.
        """
        limits = self._config.limits
        path = request.scope["path"]
        ends = record.arrived + self._config.server.deadline
        fields = await self.fields(request, record)
        record.shape = shape_of(path, fields)
        asked = validated(schema, fields)
        name = self._model(asked.model)
        field = "documents" if asked.texts is None else "texts"
        sent = asked.documents if asked.texts is None else asked.texts
        self._check_sizes(asked, sent, field)
        query = self._query(asked)
        documents = read_documents(sent or (), field=field, rank_fields=asked.rank_fields, most_text=limits.text)
        record.documents, record.history, record.reasons = len(sent or ()), len(asked.history or ()), asked.reasons or 0
        return Call(path, asked, name, query, sent or (), documents, field, ends)

    def request(self, call: Call[Any]) -> RerankCall:
        """What the reranker is asked; the history is masked."""
        history = masked(call.asked.history or (), self._config.privacy.mask)
        return RerankCall(call.query, call.documents.candidates, history)

    async def rank(
        self, request: Request, record: Record, call: Call[Any], ranker: Reranker | None = None
    ) -> tuple[Answer, Reply]:
        """Rank a call's documents, unless the client hangs up.

        Args:
            request: The request.
            record: Gets the outcome.
            call: What was read of the request.
            ranker: Ranks in place of the gateway's own, with the same engine.

        Returns:
            The answer, and what the response is made from.
        """
        answer, cached = await unless_gone(request, self._answer(call, ranker))
        record.tier, record.outcome, record.cause = answer.tier, answer.outcome, answer.cause or None
        record.cached = cached
        return answer, Reply(
            request_id=record.request_id,
            version="2" if call.path.startswith("/v2/") else "1",
            model=call.model,
            sent=call.sent,
            documents=call.documents,
            answer=answer,
            cached=cached,
            wanted=call.asked.wanted,
            with_documents=bool(call.asked.return_documents or call.asked.return_text),
        )

    async def _answer(self, call: Call[Any], ranker: Reranker | None) -> tuple[Answer, bool]:
        if not call.documents.candidates:  # only blank documents: there is nothing to read
            return Answer((), tier="model", outcome="model"), False
        asked = call.asked
        with call.errors():
            return await self._gateway.rerank(
                self.request(call), top_k=asked.wanted, reasons=asked.reasons or 0, ends=call.ends, ranker=ranker
            )

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


def validated(schema: type[M], fields: dict[str, Any]) -> M:
    """The fields of a body as its schema has them.

    Raises:
        ApiError: When one does not fit (422).
    """
    try:
        return schema.model_validate(fields)
    except pydantic.ValidationError as error:
        raise of_validation(error) from None


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
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
