"""Reads a request's body within its limits of bytes and time."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import Request
from pydantic_core import from_json

from genrank.server.errors import ApiError, invalid, too_large

_LAST_LOOK = 0.02  # seconds; where this process was held up, the body may be there and not read yet


async def read_body(request: Request, *, most: int, seconds: float) -> bytes:
    """The body of a request.

    Raises:
        ApiError: When it is larger than `most` bytes (413), or not there after so many seconds (408).
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and len(declared) < 20 and int(declared) > most:
        raise too_large("body", "bytes", most, int(declared))
    body = bytearray()
    for patience in (seconds, _LAST_LOOK):
        try:
            async with asyncio.timeout(patience):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > most:
                        raise too_large("body", "bytes", most)
            return bytes(body)
        except TimeoutError:
            continue
    raise ApiError(408, "the body did not arrive in time; send it again")


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body.

    Raises:
        ApiError: When it is not one (422).
    """
    try:
        fields = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise invalid("", f"the body is not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise invalid("", f"the body must be an object, got {type(fields).__name__}")
    return fields
