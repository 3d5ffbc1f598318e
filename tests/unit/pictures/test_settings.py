"""Pictures are off unless a source is allowed; a wrong setting is named."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from genrank.errors import InputError
from genrank.pictures import PictureLoader, Pictures
from tests.picture_rig import URL, data_url, file, loader, one, picture

pytest.importorskip("PIL", reason="Pillow is not installed: pip install 'genrank[pictures]'")


def test_without_a_source_there_are_no_pictures() -> None:
    assert not Pictures().on
    with closing(PictureLoader(Pictures())) as made:
        for address in (URL, data_url(file()), "/etc/passwd", "file:///etc/passwd", "p1.png", ""):
            assert one(made, address) == "source"


def test_hosts_may_be_given_by_their_end_or_with_a_port() -> None:
    with loader(file(), hosts=["*.shop.example", "CDN.example:8443"]) as (made, requests):
        for address in ("https://a.shop.example/1", "https://a.b.SHOP.example./2", "https://cdn.example:8443/3"):
            picture(one(made, address))
        assert [request.headers["Host"] for request in requests][-1] == "cdn.example:8443"
        for address in ("https://shop.example/4", "https://ashop.example/5", "https://cdn.example/6"):
            assert one(made, address) == "source"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"hosts": ["https://img.shop.example"]}, "hosts[0]"),
        ({"hosts": ["*"]}, "hosts[0]"),
        ({"hosts": "img.shop.example"}, "hosts"),
        ({"folders": ["no-such-folder"]}, "folders[0]"),
        ({"max_edge": 8}, "max_edge"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"timeout": 0}, "timeout"),
        ({"host": ["img.shop.example"]}, "host"),
    ],
)
def test_wrong_settings_are_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as raised:
        Pictures(**options)
    assert raised.value.field == field
