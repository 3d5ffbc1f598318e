"""The little of HTTP/1.1 that clients and the proxy need beyond what a library would do for them: misbehaving."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass

MOST_BYTES = 64 << 20
"""The most that a head and a body may have each."""


@dataclass(frozen=True, slots=True)
class Received:
    """A request or a response.

    Attributes:
        first: The words of its first line, such as ``("HTTP/1.1", "200", "OK")``.
        headers: By their names in lower case.
        body: All of it.
    """

    first: tuple[str, ...]
    headers: Mapping[str, str]
    body: bytes


async def read_head(reader: asyncio.StreamReader) -> Received:
    """Read up to the blank line; the body is left unread.

    Raises:
        EOFError: When the connection ends before it.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Received(tuple(first.split(" ", 2)), headers, b"")


async def read_message(reader: asyncio.StreamReader) -> Received:
    """Read a request or a response that gives its length.

    Raises:
        EOFError: When the connection ends before it is complete.
    """
    head = await read_head(reader)
    body = await reader.readexactly(int(head.headers.get("content-length", 0)))
    return Received(head.first, head.headers, body)


def response(status: int, body: bytes, **headers: str) -> bytes:
    """A response with a JSON body; underscores in the names of headers stand for hyphens."""
    lines = [f"HTTP/1.1 {status} {'OK' if status == 200 else 'Error'}", "Content-Type: application/json"]
    lines += [
        f"Content-Length: {len(body)}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def post_head(path: str, length: int) -> bytes:
    """The head of a POST request with a JSON body of `length` bytes, the last one on its connection."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\nConnection: close\r\n\r\n"
    ).encode()


def cut(writer: asyncio.StreamWriter) -> None:
    """End a connection as a crash does: the other side gets a reset."""
    if (raw := writer.get_extra_info("socket")) is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    writer.transport.abort()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
