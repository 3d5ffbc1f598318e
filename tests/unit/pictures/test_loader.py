"""Pictures are loaded at once, in their time, and kept."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import closing
from typing import Any

import httpx
import pytest

from genrank.errors import EngineError
from genrank.pictures import PictureLoader, Pictures
from tests.picture_rig import PUBLIC, URL, answered, data_url, file, loader, one, picture, pixel

pytest.importorskip("PIL", reason="Pillow is not installed: pip install 'genrank[pictures]'")


def test_a_known_picture_is_not_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with loader(file()) as (made, requests):
        first = picture(one(made))
        assert one(made) is first
        assert one(made, URL + "?v=2") is first, "the same content"
        assert len(requests) == 2
    with loader(file(), kept_seconds=0) as (made, requests):
        assert one(made) is one(made)
        assert len(requests) == 2
    with loader(lambda _: httpx.Response(503)) as (made, requests):
        assert [one(made), one(made)] == ["unreachable"] * 2
        assert len(requests) == 1, "failures are known for a while"


def test_the_least_recently_used_pictures_are_dropped() -> None:
    addresses = [data_url(file((i, 0, 0))) for i in range(4)]
    with loader(data_urls=True) as (made, _):
        size = len(picture(one(made, addresses[0])).data)
    with loader(data_urls=True, kept_bytes=3 * size + size // 2) as (made, _):
        first, second, third = (one(made, address) for address in addresses[:3])
        assert one(made, addresses[0]) is first
        one(made, addresses[3])
        assert (one(made, addresses[0]) is first, one(made, addresses[2]) is third) == (True, True)
        assert one(made, addresses[1]) is not second


def test_a_call_waits_only_so_long() -> None:
    async def hang(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(60)
        return httpx.Response(200)

    async def resolve(host: str, port: int) -> list[str]:
        return [PUBLIC]

    settings = Pictures(hosts=("img.shop.example",), data_urls=True, timeout=0.3)
    good = data_url(file())
    with closing(PictureLoader(settings, transport=httpx.MockTransport(hang), resolve=resolve)) as made:
        started = time.monotonic()
        found = made.load([URL, good], 0.1)
        assert time.monotonic() - started < 0.3
        assert found[URL] == "timeout"
        picture(found[good])
        assert asyncio.run(made.aload([URL]))[URL] == "timeout"
        started = time.monotonic()
        assert one(made) == "timeout"
        assert time.monotonic() - started < 0.2, "a host that is too slow is left alone for a while"
        assert made.load([]) == {}
    with pytest.raises(EngineError, match="closed"):
        made.load([URL])


def test_many_threads_share_a_loader() -> None:
    addresses = [f"https://img.shop.example/{i}" for i in range(20)]
    with loader(lambda request: answered(file((int(request.url.path[1:]) * 10, 0, 0)))) as (made, _):
        results: list[Any] = [None] * 8

        def work(i: int) -> None:
            results[i] = made.load(addresses)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    reds = [[round(pixel(found[address], 9, 9)[0] / 10) for address in addresses] for found in results]
    assert reds == [list(range(20))] * 8
