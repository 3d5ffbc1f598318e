"""An MCP server with one tool, ``rerank``, for agents that search a shop: ``genrank mcp``.

It speaks the Model Context Protocol with the official SDK, over standard input and output or over HTTP.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TextIO

import pydantic
from pydantic import ConfigDict, Field, StrictInt, StrictStr, WithJsonSchema

from genrank.cascade import Cascade
from genrank.errors import BudgetError, GenrankError, InputError, MissingExtraError, first_problem, shown
from genrank.inputs import make_history, make_query
from genrank.integrations.listings import Document, candidates, listing_ids
from genrank.reranker import Reranker
from genrank.types import Outcome, Ranking, Request

try:
    import anyio
    from mcp.server import Server
    from mcp.server.stdio import stdio_server
    from mcp_types import (
        CallToolRequestParams,
        CallToolResult,
        ListToolsResult,
        PaginatedRequestParams,
        TextContent,
        Tool,
        ToolAnnotations,
    )
except ImportError:
    raise MissingExtraError("mcp", "mcp") from None

DEADLINE = 30.0
"""The default deadline of a call, in seconds; clients give up after a minute or so."""

_DOCUMENTS = {
    "type": "array",
    "minItems": 1,
    "items": {"anyOf": [{"type": "string"}, {"type": "object", "additionalProperties": True}]},
    "description": "The search results to re-order, in their present order. Each is a text, or an object such as "
    '{"id": "p1", "title": "Red cotton dress", "brand": "Acme", "price": 39.0, "currency": "EUR"}: title, description, '
    "brand, category, price, attributes, rating, reviews, in_stock; other fields become attributes.",
}
_HISTORY = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "event": {"enum": ["view", "click", "cart", "purchase", "rating"]},
            "time": {"type": "string", "format": "date-time"},
            "rating": {"type": "number"},
            "listing": {
                "type": "object",
                "properties": {"listing_id": {"type": "string"}, "title": {"type": "string"}},
                "required": ["listing_id", "title"],
            },
        },
        "required": ["event", "listing"],
    },
    "description": "What the shopper did before, if it is known.",
}
_FIXES = {
    "missing": "give it a value",
    "int_type": "write it as a whole number",
    "string_type": "write it as text, in quotes",
    "list_type": "write it as a list",
    "greater_than_equal": "raise it, or leave it out",
    "extra_forbidden": "leave it out; the tool takes query, documents, history, top_n and reasons",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest call; a larger one is answered with an error.

    Attributes:
        documents: Documents in one call.
        text: Characters of the query, and of each document.
        total: Characters of all documents together.
        history: Interactions in the history.
        reasons: Reasons for one call.
    """

    documents: int = 1000
    text: int = 100_000
    total: int = 8 * 2**20
    history: int = 1000
    reasons: int = 10


class Arguments(pydantic.BaseModel):
    """A search and its results."""

    model_config = ConfigDict(extra="forbid")

    query: StrictStr = Field(description="What the shopper typed, or what to look for; not blank.")
    documents: Annotated[list[Any], WithJsonSchema(_DOCUMENTS)]
    history: Annotated[list[Any], WithJsonSchema(_HISTORY)] = Field(default_factory=list)
    top_n: Annotated[StrictInt, Field(ge=1)] | None = Field(None, description="How many items to return; null for all.")
    reasons: Annotated[StrictInt, Field(ge=0)] = Field(
        0, description="How many of the first items get a sentence on why they fit. Each takes time."
    )


class Item(pydantic.BaseModel):
    """One document of the answer."""

    rank: int = Field(description="1-based.")
    index: int = Field(description="The document's place in the call, 0-based.")
    id: str = Field(description="The document's id, or one that says its place.")
    score: float = Field(description="0 to 1, never rising down the list.")
    reason: str | None = Field(description="Why it fits, checked against its fields; null where there is none.")
    evidence: list[str] = Field(description="The fields that the reason rests on.")


class Made(pydantic.BaseModel):
    """How the answer was made."""

    outcome: Outcome = Field(
        description="`model`, the model's complete answer; `repaired`, its order, with something missing; `fallback`, "
        "some or all items are in another order."
    )
    cause: str = Field(description="Why the outcome is not `model`; else empty.")
    why: str = Field(description="The same in words, for `fallback`.")
    stand_in: str = Field(description="Whose order the items have that the model did not rank; `first-stage` is yours.")
    repairs: list[str]
    reasons_missing: int
    model: str
    adapter: str | None
    prompt: str
    prompt_hash: str
    engine: str
    decoding: str
    seconds: float


class Answer(pydantic.BaseModel):
    """The results, re-ordered."""

    items: list[Item] = Field(description="Best first.")
    provenance: Made


TOOL = Tool(
    name="rerank",
    title="Rerank search results",
    description="Re-orders the search results of a shop by how well they fit what the shopper looks for, best first, "
    "and says why where asked. Call it with all results that you have, before you show or compare them.",
    input_schema=Arguments.model_json_schema(),
    output_schema=Answer.model_json_schema(),
    annotations=ToolAnnotations(
        read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
    ),
)
"""The tool as clients see it."""


def create_server(
    ranker: Reranker | Cascade, *, deadline: float | None = DEADLINE, limits: Limits | None = None
) -> Server[Any]:
    """Make the server; `serve_stdio` or the SDK runs it.

    What a call does wrong is answered as an error of the tool, which an agent can read: the field, the value and the
    fix.

    Args:
        ranker: Ranks the documents.
        deadline: Seconds for each call; see `genrank.Reranker.rerank`.
        limits: The largest call; by default `Limits`'s own.

    Raises:
        InputError: When an argument is wrong.
    """
    from genrank import __version__

    ranker.check_options(deadline=deadline)
    most = limits or Limits()

    async def list_tools(_context: object, _params: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=[TOOL])

    async def call_tool(_context: object, params: CallToolRequestParams) -> CallToolResult:
        if params.name != TOOL.name:
            return _failed(f"there is no tool {shown(params.name)}; call {TOOL.name}")
        try:
            answer = await _answer(ranker, params.arguments or {}, deadline, most)
        except GenrankError as error:
            return _failed(str(error))
        text = TextContent(type="text", text=answer.model_dump_json())
        return CallToolResult(content=[text], structured_content=answer.model_dump())

    return Server(
        "genrank",
        title="genrank",
        version=__version__,
        instructions="Use rerank to put the search results of a shop into the order that suits the shopper.",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def serve_stdio(server: Server[Any], stdout: TextIO) -> None:
    """Serve over standard input and output until the input ends.

    Args:
        server: From `create_server`.
        stdout: The stream of `protocol_stream`.
    """

    async def run() -> None:
        async with stdio_server(stdout=anyio.wrap_file(stdout)) as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())

    anyio.run(run)


def serve_http(server: Server[Any], port: int) -> None:
    """Serve over HTTP at ``http://127.0.0.1:PORT/mcp``, for this machine only, until a signal says stop."""
    import uvicorn

    host = "127.0.0.1"
    uvicorn.run(server.streamable_http_app(host=host, stateless_http=True), host=host, port=port)


@contextlib.contextmanager
def protocol_stream() -> Iterator[TextIO]:
    """Keep standard output for the protocol.

    Inside the block, the stream is what standard output was; whatever else writes there goes to standard error: a
    library of the model's, or a process that it starts. Enter it before the model is loaded.
    """
    sys.stdout.flush()
    wire = os.dup(1)
    try:
        os.dup2(2, 1)
        with open(wire, "w", encoding="utf-8", newline="\n", closefd=False) as stream:
            yield stream
    finally:
        sys.stdout.flush()
        os.dup2(wire, 1)
        os.close(wire)


async def _answer(
    ranker: Reranker | Cascade, fields: Mapping[str, Any], deadline: float | None, limits: Limits
) -> Answer:
    try:
        asked = Arguments.model_validate({name: value for name, value in fields.items() if value is not None})
    except pydantic.ValidationError as error:
        path, message = first_problem(error.errors(include_url=False), fixes=_FIXES)
        raise InputError(message, field=path) from None
    _check_sizes(asked, limits)
    query, history = make_query(asked.query), make_history(asked.history)
    documents = [_document(one) for one in asked.documents]
    ids, found = listing_ids(documents), candidates(documents)
    read = tuple(one for one in found if one is not None)
    if not read:
        raise InputError("holds no visible text; send documents with a text or a title", field="documents")
    try:
        (ranking,) = await ranker.arerank_batch(
            [Request(query, read, history)], top_k=asked.top_n, reasons=asked.reasons, deadline=deadline
        )
    except BudgetError:
        raise InputError(
            "too many or too long for one prompt of this model; send fewer or shorter ones", field="documents"
        ) from None
    places = {listing_id: i for i, listing_id in enumerate(ids)}
    rows = [(item.listing_id, item.score, item.reason, item.evidence) for item in ranking]
    rows += [(ids[i], 0.0, None, ()) for i, one in enumerate(found) if one is None]
    return Answer(
        items=[
            Item(rank=rank, index=places[name], id=name, score=score, reason=reason, evidence=list(evidence))
            for rank, (name, score, reason, evidence) in enumerate(rows[: asked.top_n], 1)
        ],
        provenance=_made(ranking),
    )


def _check_sizes(asked: Arguments, limits: Limits) -> None:
    for i, one in enumerate(asked.documents):
        if not isinstance(one, (str, dict)):
            raise InputError(f"must be a text or an object, got {shown(one)}; quote it", field=f"documents[{i}]")
    if not asked.documents:
        raise InputError("must hold at least one document; send those to rank", field="documents")
    lengths = [len(one if isinstance(one, str) else json.dumps(one, ensure_ascii=False)) for one in asked.documents]
    sizes = [
        ("query", "characters", limits.text, len(asked.query)),
        ("documents", "documents", limits.documents, len(lengths)),
        *((f"documents[{i}]", "characters", limits.text, length) for i, length in enumerate(lengths)),
        ("documents", "characters", limits.total, sum(lengths)),
        ("history", "interactions", limits.history, len(asked.history)),
        ("reasons", "reasons", limits.reasons, asked.reasons),
    ]
    for field, what, most, got in sizes:
        if got > most:
            raise InputError(f"at most {most:,} {what}, got {got:,}; send less", field=field)


def _document(document: str | dict[str, Any]) -> Document:
    if isinstance(document, str):
        return Document(document, {})
    text = document.get("text")
    return Document(text if isinstance(text, str) else None, document)


def _made(ranking: Ranking) -> Made:
    made = ranking.provenance
    return Made.model_validate(
        {name: getattr(made, name) for name in Made.model_fields} | {"repairs": list(made.repairs)}
    )


def _failed(message: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=message)], is_error=True)
