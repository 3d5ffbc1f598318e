"""The batch format of vLLM's ``run-batch`` and OpenAI's API: the gateway's rerank requests in, its responses out.

A line in: ``{"custom_id", "method": "POST", "url": "/v1/rerank", "body"}``, the body as a client sends it to
``genrank serve``. A line out: ``{"id", "custom_id", "response": {"status_code", "request_id", "body"}, "error"}``. It
takes the gateway's own schemas, which the extra ``server`` brings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from genrank.batch.dialects import Asked, key, text_field
from genrank.batch.sources import Row
from genrank.errors import DataFormatError, InputError, shown
from genrank.inputs import make_query
from genrank.server.answers import Answer
from genrank.server.calls import validated
from genrank.server.documents import Documents, read_documents
from genrank.server.errors import ApiError
from genrank.server.schemas import RerankRequest
from genrank.server.shapes import Reply, Shape, shape_of
from genrank.types import Ranking, Request

URLS = ("/v1/rerank", "/v2/rerank", "/rerank")
"""The paths that are answered."""

_MOST_TEXT = 1_000_000  # characters of a document


@dataclass(frozen=True, slots=True)
class _Context:
    """What the answer to a row is made from."""

    url: str
    body: RerankRequest
    shape: Shape
    documents: Documents


class RunBatch:
    """Lines of ``run-batch``; see `genrank.batch.dialects.Dialect`.

    Args:
        model: What to call the model in responses where a request names none; by default the ranking's.
        reasons: How many of the first results get a reason where the request does not say.
    """

    def __init__(self, *, model: str = "", reasons: int = 0) -> None:
        self._model = model
        self._reasons = reasons

    def row_id(self, row: Row) -> str:
        """See `genrank.batch.dialects.Dialect`."""
        return text_field(row.value, "custom_id")

    def key_of(self, line: Mapping[str, Any]) -> str | None:
        """See `genrank.batch.dialects.Dialect`."""
        custom_id, label = text_field(line, "custom_id"), text_field(line, "row")
        return key(custom_id, label) if custom_id or label else None

    def read(self, row: Row) -> Asked:
        """See `genrank.batch.dialects.Dialect`."""
        if isinstance(row.value, DataFormatError):
            raise row.value
        fields = row.value
        if not isinstance(fields, Mapping):
            raise InputError(f"must be an object with custom_id, method, url and body, got {shown(fields)}")
        if not self.row_id(row):
            raise InputError("must be text, which names this line in the output", field="custom_id")
        if fields.get("method", "POST") != "POST":
            raise InputError(f"must be POST, got {shown(fields['method'])}", field="method")
        url = fields.get("url")
        if url not in URLS:
            raise InputError(f"must be one of {', '.join(URLS)}, got {shown(url)}", field="url")
        if not isinstance(fields.get("body"), dict):
            raise InputError(f"must be an object, got {shown(fields.get('body'))}", field="body")
        try:
            return self._read(url, fields["body"])
        except ApiError as error:
            raise InputError(error.message, field="body") from None

    def _read(self, url: str, fields: dict[str, Any]) -> Asked:
        body = validated(RerankRequest, fields)
        if body.instruction and body.instruction.strip():
            raise InputError("the prompt has no place for one; leave it out", field="instruction")
        field = "documents" if body.texts is None else "texts"
        sent = (body.documents if body.texts is None else body.texts) or ()
        if not sent:
            raise InputError("must hold at least one document", field=field)
        documents = read_documents(sent, field=field, rank_fields=body.rank_fields, most_text=_MOST_TEXT)
        context = _Context(url, body, shape_of(url, fields), documents)
        query = make_query(body.query)
        if not documents.candidates:  # only blank ones
            return Asked(None, context=context)
        reasons = self._reasons if body.reasons is None else body.reasons
        request = Request(query, documents.candidates, tuple(body.history or ()))
        return Asked(request, reasons=reasons, context=context)

    def answer(self, row: Row, asked: Asked, ranking: Ranking | None) -> dict[str, Any]:
        """See `genrank.batch.dialects.Dialect`."""
        context: _Context = asked.context
        answer = Answer((), tier="model", outcome="model")
        if ranking is not None and asked.request is not None:
            answer = Answer.of(asked.request, ranking, reasons=asked.reasons)
        body, request_id = context.body, _name(row, "batch")
        reply = Reply(
            request_id=request_id,
            version="2" if context.url.startswith("/v2/") else "1",
            model=body.model or self._model or _model(ranking),
            sent=(body.documents if body.texts is None else body.texts) or (),
            documents=context.documents,
            answer=answer,
            cached=False,
            wanted=body.wanted,
            with_documents=bool(body.return_documents or body.return_text),
        )
        made = json.loads(bytes(reply.response(context.shape).body))
        response = {"status_code": 200, "request_id": request_id, "body": made}
        return {"id": _name(row, "line"), "custom_id": self.row_id(row), "response": response, "error": None}

    def failure(self, row: Row, reason: str) -> dict[str, Any]:
        """See `genrank.batch.dialects.Dialect`."""
        return {
            "id": _name(row, "line"),
            "custom_id": self.row_id(row),
            "response": None,
            "error": {"code": "failed", "message": reason},
            "row": row.label,
            "reason": reason,
        }


def _name(row: Row, what: str) -> str:
    """An id that is the same whenever the row is answered."""
    digest = hashlib.sha256(f"{row.label}:{row.value!r}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"genrank-{what}-{digest[:24]}"


def _model(ranking: Ranking | None) -> str:
    made_by = ranking.provenance if ranking is not None else None
    return PurePath(made_by.adapter or made_by.model).name if made_by else ""
