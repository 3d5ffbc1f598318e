"""Which pictures are shown to a model, and how large they may be."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from genrank.types import checked

_HOST = re.compile(r"(\*\.)?([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]*[a-z0-9])?(:\d{1,5})?")


def _host(host: str) -> str:
    host = host.lower()
    if not _HOST.fullmatch(host):
        raise ValueError("must be a host such as img.shop.example, *.shop.example or img.shop.example:8443")
    return host


def _folder(folder: Path) -> Path:
    if not folder.expanduser().is_dir():
        raise ValueError("must be a folder that exists")
    return folder.expanduser().resolve()


@checked
class Pictures:
    """Where pictures of listings (`genrank.Listing.image_url`) may come from, and how large they may be.

    Without `hosts`, `folders` and `data_urls` there are no pictures, and nothing is ever fetched.

    Attributes:
        hosts: Hosts whose pictures are fetched over https, such as ``img.shop.example``; ``*.shop.example`` allows all
            hosts below, and ``img.shop.example:8443`` another port than 443. A host with an address that is not public
            (this machine, a private network) is refused, and redirects are not followed.
        folders: Folders whose files may be shown: an address is then a path below one of them, or a ``file:`` address.
        data_urls: Whether an address may hold the picture itself (``data:image/png;base64,...``).
        max_bytes: The largest file.
        max_pixels: The largest picture, width times height; it is checked before anything is decoded.
        max_edge: Pixels of the longer edge to which larger pictures are scaled down. It decides how many tokens a
            picture takes in most models.
        timeout: Seconds within which the pictures of a call must be there. With a deadline, at most half of the time
            that is left.
        in_flight: The most pictures that are fetched at once.
        kept_bytes: Memory for prepared pictures, which are kept by their content; the least recently used are dropped.
        kept_seconds: How long the content behind an https address is taken as known; a failure, for at most 30 s.

    Raises:
        InputError: When a value is wrong.
    """

    hosts: tuple[Annotated[str, AfterValidator(_host)], ...] = ()
    folders: tuple[Annotated[Path, AfterValidator(_folder)], ...] = ()
    data_urls: bool = False
    max_bytes: Annotated[int, Field(ge=1)] = 8 << 20
    max_pixels: Annotated[int, Field(ge=1, le=80_000_000)] = 16_000_000
    max_edge: Annotated[int, Field(ge=16, le=4096)] = 384
    timeout: Annotated[float, Field(gt=0)] = 5.0
    in_flight: Annotated[int, Field(ge=1, le=256)] = 16
    kept_bytes: Annotated[int, Field(ge=0)] = 128 << 20
    kept_seconds: Annotated[float, Field(ge=0)] = 300.0

    @property
    def on(self) -> bool:
        """Whether there are any."""
        return bool(self.hosts or self.folders or self.data_urls)

    def allows(self, host: str, port: int) -> bool:
        """Whether pictures may be fetched from a host, in lower case, at this port."""
        for known in self.hosts:
            name, _, number = known.partition(":")
            fits = host.endswith(name[1:]) if name.startswith("*.") else host == name
            if fits and port == int(number or 443):
                return True
        return False
