"""Pictures come from allowed places only."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from genrank.pictures import PictureLoader, Pictures, sources
from genrank.pictures.sources import is_public
from tests.picture_rig import PUBLIC, answered, data_url, file, loader, one, picture

pytest.importorskip("PIL", reason="Pillow is not installed: pip install 'genrank[pictures]'")


def test_a_picture_is_fetched_from_the_address_that_was_checked() -> None:
    with loader(file()) as (made, requests):
        found = picture(one(made))
    assert (found.width, found.height) == (60, 40)
    (request,) = requests
    assert (request.url.host, request.headers["Host"]) == (PUBLIC, "img.shop.example")
    assert request.extensions["sni_hostname"] == "img.shop.example"


@pytest.mark.parametrize(
    "address",
    [
        "http://img.shop.example/red.png",
        "https://shop.example/red.png",
        "https://evil.example/?https://img.shop.example/red.png",
        "https://img.shop.example.evil.example/red.png",
        "https://img.shop.example@evil.example/red.png",
        "https://name:word@img.shop.example/red.png",
        "https://img.shop.example:8443/red.png",
        "https://img.shop.example\\@evil.example/red.png",
        "https://127.0.0.1/red.png",
        "https://[::1]/red.png",
        "https:///red.png",
        "https://img.shop.example:99999/red.png",
        "ftp://img.shop.example/red.png",
        "gopher://img.shop.example/red.png",
        "file://img.shop.example/red.png",
        "//img.shop.example/red.png",
        "https://img.shop.example/" + "x" * 5000,
    ],
)
def test_other_places_are_never_asked(address: str) -> None:
    with loader(file()) as (made, requests):
        assert one(made, address) == "source"
        assert requests == []


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "240.0.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:10.0.0.1",
        "::ffff:169.254.169.254", "2002:7f00:1::", "2001:0:7f00:1::", "64:ff9b::7f00:1", "nonsense",
    ],
)  # fmt: skip
def test_a_host_with_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not is_public(address)
    with loader(file(), resolved=[PUBLIC, address]) as (made, requests):
        assert one(made) == "address"
        assert requests == []


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:4700::6810:84e5"])
def test_public_addresses_are_taken(address: str) -> None:
    assert is_public(address)
    with loader(file(), resolved=[address]) as (made, requests):
        picture(one(made))
        assert requests[0].url.host == address


@pytest.mark.parametrize("status", [301, 302, 307, 404, 500, 204])
def test_redirects_are_not_followed_and_other_answers_are_no_pictures(status: int) -> None:
    elsewhere = {"Location": "https://img.shop.example/other.png"}
    with loader(lambda _: answered(file(), status, elsewhere)) as (made, requests):
        assert one(made) == "unreachable"
        assert len(requests) == 1


def test_hosts_that_are_not_found_or_do_not_answer() -> None:
    def lost(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with loader(lost) as (made, _):
        assert one(made) == "unreachable"
    with loader(file(), resolved=[]) as (made, _):
        assert one(made) == "unreachable"


def test_a_file_that_is_too_large_is_not_read_to_its_end() -> None:
    sent = 0

    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self) -> Any:
            nonlocal sent
            while True:
                sent += 1000
                yield b"x" * 1000

    with loader(lambda _: httpx.Response(200, stream=Endless()), max_bytes=10_000) as (made, _):
        assert one(made) == "bytes"
        assert sent < 20_000
    with loader(max_bytes=1000, data_urls=True) as (made, _):
        assert one(made, data_url(b"x" * 1001)) == "bytes"


def test_files_are_read_below_the_folders_only(tmp_path: Path) -> None:
    shop, other = tmp_path / "shop", tmp_path / "other"
    for folder in (shop / "deep", other):
        folder.mkdir(parents=True)
        (folder / "red bag.png").write_bytes(file())
    (shop / "out.png").symlink_to(other / "red bag.png")
    os.mkfifo(shop / "pipe.png")
    with loader(folders=[shop]) as (made, _):
        for address in ("deep/red bag.png", f"{shop}/deep/red bag.png", f"file://{shop}/deep/red%20bag.png"):
            picture(one(made, address))
        for address in ("../other/red bag.png", f"{other}/red bag.png", f"file://{other}/red%20bag.png", "out.png"):
            assert one(made, address) == "source"
        for address in ("none.png", "deep", "pipe.png", "a\0b"):
            assert one(made, address) == "unreachable", address


def test_addresses_that_hold_the_picture() -> None:
    with loader(data_urls=True) as (made, requests):
        picture(one(made, data_url(file(kind="JPEG"), "image/png")))
        picture(one(made, data_url(file(), "image/png;charset=utf-8")))
        for address in (
            "data:,red",
            "data:image/png;base64",
            "data:image/png;base64,%%%",
            "data:image/png,abc",
            "data:",
        ):
            assert one(made, address) == "format", address
    assert requests == []
    with loader() as (made, _):
        assert one(made, data_url(file())) == "source"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A key and its certificate for ``img.shop.example``, signed by itself."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    path = tmp_path / "server.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=img"]
    command += ["-addext", "subjectAltName=DNS:img.shop.example", "-keyout", str(path), "-out", str(tmp_path / "c.pem")]
    subprocess.run(command, check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + (tmp_path / "c.pem").read_bytes())
    return path


def test_over_tls_the_certificate_is_checked_against_the_hosts_name(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = file()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hosts = tuple(f"{name}.shop.example:{server.server_port}" for name in ("img", "other"))
    trusting = httpx.AsyncHTTPTransport(verify=ssl.create_default_context(cafile=str(certificate)))
    try:
        with closing(PictureLoader(Pictures(hosts=hosts), transport=trusting, resolve=resolve)) as made:
            urls = [f"https://{host}/red.png" for host in hosts]
            assert set(made.load(urls).values()) == {"address"}, "this machine is no public address"
            monkeypatch.setattr(sources, "is_public", lambda _: True)
            monkeypatch.setattr(made, "_known", type(made._known)())
            found = made.load(urls)
            picture(found[urls[0]])
            assert found[urls[1]] == "unreachable", "the certificate is another host's"
        with closing(PictureLoader(Pictures(hosts=hosts), resolve=resolve)) as strict:
            assert one(strict, urls[0]) == "unreachable", "nobody known has signed the certificate"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
