from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from genrank.server.errors import ApiError
from genrank.server.limits import parse_object, read_body


def read(*chunks: bytes, length: str | None = None, pause: float = 0.0, most: int = 10) -> bytes:
    from fastapi import Request

    parts = list(chunks)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    headers = [] if length is None else [(b"content-length", length.encode())]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    return asyncio.run(read_body(request, most=most, seconds=0.2))


def test_a_body_within_the_limit_is_read() -> None:
    assert read(b"12345", b"67890") == b"1234567890"
    assert read(b"1", length="nonsense") == b"1"


@pytest.mark.parametrize(("chunks", "length"), [((b"",), "11"), ((b"123456", b"78901"), None), ((b"x" * 11,), "3")])
def test_a_larger_one_is_not_read_to_its_end(chunks: tuple[bytes, ...], length: str | None) -> None:
    with pytest.raises(ApiError, match="body: at most 10 bytes") as caught:
        read(*chunks, length=length)
    assert caught.value.status == 413


def test_a_slow_body_is_given_up() -> None:
    with pytest.raises(ApiError) as caught:
        read(b"1", b"2", pause=0.15)
    assert caught.value.status == 408


def test_a_body_that_came_while_the_process_was_held_up_is_read() -> None:
    from fastapi import Request

    held_up = False

    async def receive() -> dict[str, Any]:
        nonlocal held_up
        if not held_up:
            held_up = True
            time.sleep(0.1)  # the body arrives meanwhile, and the time is over before anybody reads it
        for _ in range(2):  # as a server that first reads from the socket, and then wakes who waits for it
            await asyncio.sleep(0)
        return {"type": "http.request", "body": b"{}", "more_body": False}

    request = Request({"type": "http", "method": "POST", "headers": []}, receive)
    assert asyncio.run(read_body(request, most=10, seconds=0.05)) == b"{}"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1]", b'"text"', b"null", b'{"a": NaN}', b'{"a": "\\ud800"}', b'{"a": "\xff"}', b"[" * 10_000,
     b'{"a": ' + b"1" * 10_000 + b"}"],
)  # fmt: skip
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError, match="the body") as caught:
        parse_object(body)
    assert caught.value.status == 422
