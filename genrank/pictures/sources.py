"""Gets the bytes of a picture from an allowed place, and from nowhere else."""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import re
import socket
import stat
import urllib.parse
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from genrank.pictures.settings import Pictures

if TYPE_CHECKING:
    import httpx

Trouble = Literal["source", "address", "unreachable", "timeout", "bytes", "pixels", "format"]
"""Why a listing has no picture: its place is not allowed; its host has an address that is not public; there was no
answer, or another than the picture; it came too late; it has too many bytes or pixels; it is not a JPEG, PNG, WebP or
GIF, or broken."""

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Finds the IP addresses of a host and a port."""

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LONGEST_ADDRESS = 4096  # characters, of an address that does not hold the picture itself


class PictureError(Exception):
    """A picture cannot be shown.

    Attributes:
        trouble: Why.
    """

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble)
        self.trouble = trouble


def is_web(address: str) -> bool:
    """Whether a picture's address is on the web."""
    return address[:8].lower() == "https://"


def read_here(address: str, pictures: Pictures) -> bytes:
    """The bytes of a picture that is in a folder, or in its address itself.

    Raises:
        PictureError: When that is not allowed, or there is none.
    """
    if address[:5].lower() == "data:":
        return _decode(address[5:], pictures)
    if len(address) > _LONGEST_ADDRESS:
        raise PictureError("source")
    if address[:8].lower() == "file:///":
        address = urllib.parse.unquote(address[7:])
    elif _SCHEME.match(address):
        raise PictureError("source")
    for folder in pictures.folders:
        try:
            path = (folder / address).resolve()
            if path.is_relative_to(folder) and path.exists():
                return _read(path, pictures.max_bytes)
        except (OSError, ValueError, RuntimeError):
            raise PictureError("unreachable") from None
    inside = any(_is_inside(address, folder) for folder in pictures.folders)
    raise PictureError("unreachable" if inside else "source")


def _is_inside(address: str, folder: Path) -> bool:
    try:
        return (folder / address).resolve().is_relative_to(folder)
    except (OSError, ValueError, RuntimeError):
        return False


def _read(path: Path, most: int) -> bytes:
    if not stat.S_ISREG(path.stat().st_mode):
        raise PictureError("unreachable")
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise PictureError("bytes")
    return data


def _decode(rest: str, pictures: Pictures) -> bytes:
    """The content of a data URL, without its scheme."""
    if not pictures.data_urls:
        raise PictureError("source")
    start = rest.find(",", 0, 256)
    if start < 0 or not rest[:start].lower().endswith(";base64"):
        raise PictureError("format")
    if (len(rest) - start) * 3 // 4 > pictures.max_bytes + 3:
        raise PictureError("bytes")
    try:
        data = base64.b64decode(rest[start + 1 :], validate=True)
    except (binascii.Error, ValueError):
        raise PictureError("format") from None
    if len(data) > pictures.max_bytes:
        raise PictureError("bytes")
    return data


async def fetch(address: str, pictures: Pictures, client: httpx.AsyncClient, resolve: Resolve) -> bytes:
    """The bytes behind an https address.

    The host is looked up once, and the connection is made to the address that was checked, so a name that changes in
    between leads nowhere else. The certificate is still checked against the name.

    Args:
        address: The picture's address.
        pictures: Which hosts are allowed.
        client: Makes the request; follows no redirects, keeps no connections and uses no proxy.
        resolve: Looks up hosts.

    Raises:
        PictureError: When that is not allowed, or the answer is not a file within the limit.
    """
    import httpx

    if len(address) > _LONGEST_ADDRESS:
        raise PictureError("source")
    try:
        url = httpx.URL(address)
    except (httpx.InvalidURL, ValueError):
        raise PictureError("source") from None
    host, port = url.raw_host.decode("ascii").lower().rstrip("."), url.port or 443
    if url.scheme != "https" or url.userinfo or not pictures.allows(host, port):
        raise PictureError("source")
    try:
        found = await resolve(host, port)
    except (OSError, UnicodeError):
        raise PictureError("unreachable") from None
    if not found or not all(map(is_public, found)):
        raise PictureError("address" if found else "unreachable")
    name = host if port == 443 else f"{host}:{port}"
    pinned = client.stream(
        "GET", url.copy_with(host=found[0]), headers={"Host": name}, extensions={"sni_hostname": host}
    )
    try:
        async with pinned as response:
            if response.status_code != 200:
                raise PictureError("unreachable")
            data = bytearray()
            async for part in response.aiter_raw():
                data += part
                if len(data) > pictures.max_bytes:
                    raise PictureError("bytes")
    except httpx.TimeoutException:
        raise PictureError("timeout") from None
    except (OSError, httpx.HTTPError):
        raise PictureError("unreachable") from None
    return bytes(data)


async def look_up(host: str, port: int) -> list[str]:
    """The IP addresses of a host."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet: no loopback, private, link-local or other special one."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # an IPv6 address with a zone is link-local
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.teredo is not None or ip in _NAT64:
            return False
        if (inside := ip.ipv4_mapped or ip.sixtofour) is not None:
            return inside.is_global and not inside.is_multicast
    return ip.is_global and not ip.is_multicast
