"""What every request passes through: its path made plain, an id, the key, the rate limit, a log line, no stack."""

from __future__ import annotations

import dataclasses
import logging
import re
import time
import uuid
from collections.abc import Collection
from typing import Any

from fastapi import Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genrank.server.auth import Keys, RateLimit
from genrank.server.errors import ApiError
from genrank.server.logs import log
from genrank.server.shapes import Shape, error_response
from genrank.server.telemetry import Metrics

PATHS = ("/v2/rerank", "/v1/rerank", "/rerank", "/info", "/v1/models", "/health", "/ready", "/metrics", "/openapi.json")
"""Every path that there is without the playground and without an index."""

PLAYGROUND_PATHS = ("/", "/playground/setup", "/playground/shop", "/playground/rerank", "/playground/prompt")
"""The playground's paths, besides those of its files."""

PLAYGROUND_SEARCH = "/playground/search"
"""The playground's search, where the gateway has an index."""

_SHOPPERS = "/v1/shoppers/{user_id:path}"

SEARCH_PATHS = ("/v1/search", "/v1/complete", "/v1/events", _SHOPPERS)
"""The paths of searches, where the gateway has an index, and those of what it keeps of them."""

_OPEN = ("/health", "/ready")
_LIMITED = ("/rerank", "/prompt", "/search")
_KEY = "genrank"
_KNOWN = frozenset((*PATHS, *SEARCH_PATHS, *PLAYGROUND_PATHS, PLAYGROUND_SEARCH))
_SHOPPER = re.compile(r"/*(?:v\d/+)*v1/+shoppers/(.+)", re.DOTALL)
_REQUEST_ID = re.compile(r"[\w.:-]{1,100}", re.ASCII)


@dataclasses.dataclass(slots=True)
class Record:
    """What is known of a request, for its log line; never a text of it.

    Attributes:
        request_id: The client's own ``X-Request-Id`` where that is short and plain, else a new one.
        arrived: When it did, on the clock of ``time.monotonic()``.
        caller: Id of the key; None for a wrong one.
        shape: Which API it spoke.
        documents: How many it held.
        history: How many interactions.
        reasons: How many it asked for.
        tier: How good the answer is; see `genrank.server.answers.Answer` for this one and the next two.
        outcome: Whether the order is the model's own.
        cause: Why it is not.
        cached: Whether the answer was kept from before.
    """

    request_id: str
    arrived: float
    caller: str | None = None
    shape: Shape = "cohere"
    documents: int | None = None
    history: int | None = None
    reasons: int | None = None
    tier: str | None = None
    outcome: str | None = None
    cause: str | None = None
    cached: bool | None = None


def record_of(scope: Any) -> Record:
    """The record of a request that passed through `Edge`."""
    record: Record = scope[_KEY]
    return record


def plain_path(path: str) -> str:
    """A path as clients mean it: no doubled or trailing slash, and of doubled versions the last one.

    A client appends ``/v2/rerank`` to a base address that may end with ``/v1`` or ``/`` already. A shopper's id stays
    as it is, slashes and all.
    """
    if shopper := _SHOPPER.fullmatch(path):
        return f"/v1/shoppers/{shopper[1]}"
    path = "/" + "/".join(part for part in path.split("/") if part)
    return re.sub(r"^(/v\d)+(?=/v\d/)", "", path)


def known_path(path: str) -> str:
    """A path for logs: one that there is, without a shopper's id, or ``other``."""
    if path.startswith("/v1/shoppers/"):
        return _SHOPPERS
    return path if path in _KNOWN else "other"


class Edge:
    """ASGI middleware around the whole app.

    Args:
        app: The app.
        keys: Who may call.
        rate: How often a key may ask for a ranking, a search or a prompt.
        metrics: Counts responses.
        open_paths: Paths that need no key, besides those of health.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Keys,
        rate: RateLimit,
        metrics: Metrics,
        open_paths: Collection[str] = (),
    ) -> None:
        self._app = app
        self._open = (*_OPEN, *open_paths)
        self._keys = keys
        self._rate = rate
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        arrived = time.monotonic()
        headers = Headers(scope=scope)
        path = plain_path(scope["path"])
        given = headers.get("x-request-id", "")
        record = Record(given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex, arrived)
        scope = {**scope, "path": path, "raw_path": path.encode("utf-8", "replace"), _KEY: record}
        status = 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = record.request_id
            await send(message)

        failed: str | None = None
        try:
            refusal = self._refusal(path, headers.get("authorization"), record)
            await (refusal or self._app)(scope, receive, send_on)
        except Exception as error:  # its message may hold a text, and its stack a path
            failed = type(error).__name__
            if not status:
                broken = ApiError(500, "the server failed to answer this request")
                await error_response(broken, record.shape)(scope, receive, send_on)
        finally:
            self._metrics.responses.labels(str(status)).inc()
            quiet = path in _OPEN and status == 200
            known = dataclasses.asdict(record)
            del known["arrived"]
            log(
                logging.ERROR if failed else logging.DEBUG if quiet else logging.INFO,
                "request",
                method=scope["method"] if scope["method"] in ("GET", "POST", "DELETE", "HEAD", "OPTIONS") else "other",
                path=known_path(path),
                status=status,
                seconds=round(time.monotonic() - arrived, 4),
                error=failed,
                **known,
            )

    def _refusal(self, path: str, authorization: str | None, record: Record) -> Response | None:
        """The response to a request that may not pass; None for one that may."""
        if path in self._open:
            return None
        record.caller = self._keys.caller(authorization)
        if record.caller is None:
            what = "this key is not known" if authorization else "a key is missing"
            return error_response(ApiError(401, f"{what}; send the header Authorization: Bearer KEY"))
        if path.endswith(_LIMITED) and (wait := self._rate.wait(record.caller)):
            return error_response(ApiError(429, f"too many requests for this key; wait {wait} s", retry_after=wait))
        return None
