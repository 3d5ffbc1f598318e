"""Pictures made in a test, and a loader whose network is a function."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx

from genrank.pictures import Picture, PictureLoader, Pictures

URL = "https://img.shop.example/red.png"
PUBLIC = "93.184.215.14"
Serve = Callable[[httpx.Request], httpx.Response]


def file(
    colour: Any = "red", size: tuple[int, int] = (60, 40), kind: str = "PNG", mode: str = "RGB", **more: Any
) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, kind, **more)
    return out.getvalue()


def answered(content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.Response(status, headers=headers, stream=httpx.ByteStream(content))


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@contextmanager
def loader(
    serve: Serve | bytes = b"", resolved: list[str] | None = None, **options: Any
) -> Iterator[tuple[PictureLoader, list[httpx.Request]]]:
    """A loader whose network is a function, and the requests that reached it."""
    requests: list[httpx.Request] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        found = serve if isinstance(serve, bytes) else serve(request)
        return found if isinstance(found, httpx.Response) else answered(found)

    async def resolve(host: str, port: int) -> list[str]:
        return [PUBLIC] if resolved is None else resolved

    settings = Pictures(**{"hosts": ["img.shop.example"]} | options)
    with closing(PictureLoader(settings, transport=httpx.MockTransport(answer), resolve=resolve)) as made:
        yield made, requests


def one(made: PictureLoader, address: str = URL) -> Picture | str:
    return made.load([address])[address]


def picture(found: Picture | str) -> Picture:
    assert isinstance(found, Picture), found
    return found


def pixel(found: Picture | str, x: int, y: int) -> tuple[int, ...]:
    """Red, green and blue, 0 to 255."""
    colours = picture(found).image().getpixel((x, y))
    assert isinstance(colours, tuple)
    return colours
