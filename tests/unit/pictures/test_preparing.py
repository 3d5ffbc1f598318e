"""Pictures are checked before they are decoded, scaled down, and written without metadata."""

from __future__ import annotations

import io

import pytest

from tests.picture_rig import answered, data_url, file, loader, one, picture, pixel

pytest.importorskip("PIL", reason="Pillow is not installed: pip install 'genrank[pictures]'")

from PIL import Image


def test_a_decompression_bomb_is_not_decoded() -> None:
    bomb = file(0, (8000, 8000), mode="1")  # 64 million pixels in a few kB
    assert len(bomb) < 20_000
    with loader(bomb) as (made, _):
        assert one(made) == "pixels"
    with loader(file(size=(101, 100)), max_pixels=10_000) as (made, _):
        assert one(made) == "pixels"
    with loader(file(0, (14000, 14000), mode="1")) as (made, _):  # beyond Pillow's own limit
        assert one(made) == "pixels"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0",
        file(kind="TIFF"),
        file(kind="BMP"),
        file()[:-40],
        file(kind="JPEG", size=(300, 300))[:600],
        file(size=(2000, 2)),
    ],
)
def test_what_is_no_whole_picture_of_a_known_kind_is_refused(data: bytes) -> None:
    with loader(lambda _: answered(data, headers={"Content-Type": "image/png"})) as (made, _):
        assert one(made) == "format"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_the_kind_is_found_by_the_content(kind: str) -> None:
    with loader(lambda _: answered(file(kind=kind), headers={"Content-Type": "text/html"})) as (
        m,
        _,
    ):
        red, green, blue = pixel(one(m), 30, 20)
    assert (red > 230, green < 25, blue < 25) == (True, True, True)


def test_large_pictures_are_scaled_down_and_small_ones_stay() -> None:
    with loader(data_urls=True, max_edge=100) as (made, _):
        sizes = [(picture(one(made, data_url(file(size=size))))) for size in ((400, 200), (90, 300), (50, 20))]
    assert [(found.width, found.height) for found in sizes] == [(100, 50), (30, 100), (50, 20)]
    assert [found.image().size for found in sizes] == [(100, 50), (30, 100), (50, 20)]


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_metadata_is_stripped_and_the_orientation_is_kept(mode: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    exif[0x010E] = "a secret place"
    out = io.BytesIO()
    colours = Image.new(mode, (60, 40), "red")
    colours.paste(Image.new("RGB", (30, 40), "blue").convert(mode), (0, 0))
    colours.save(out, "JPEG", exif=exif, comment=b"another secret")
    with loader(out.getvalue()) as (made, _):
        found = picture(one(made))
    assert (found.width, found.height) == (40, 60)
    assert pixel(found, 20, 10)[2] > 200, "what was left is above"
    assert b"secret" not in found.data
    assert b"Exif" not in found.data


def test_transparent_places_are_white() -> None:
    with loader(file((255, 0, 0, 0), mode="RGBA")) as (made, _):
        assert min(pixel(one(made), 5, 5)) > 250
