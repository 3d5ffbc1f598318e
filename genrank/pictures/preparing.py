"""Turns the bytes of a file into a picture that is safe to pass on: decoded, scaled down and written anew."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genrank.errors import MissingExtraError
from genrank.pictures.settings import Pictures
from genrank.pictures.sources import PictureError

if TYPE_CHECKING:
    from PIL.Image import Image

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
_QUALITY = 90
_MOST_LENGTHENED = 50  # the longer edge by the shorter one; processors of models refuse more at 200


@dataclass(frozen=True, slots=True)
class Picture:
    """A listing's picture as the model sees it.

    Attributes:
        data: A JPEG file without metadata.
        width: In pixels.
        height: In pixels.
    """

    data: bytes
    width: int
    height: int

    def data_url(self) -> str:
        """The picture as an address that holds it."""
        return f"data:image/jpeg;base64,{base64.b64encode(self.data).decode('ascii')}"

    def image(self) -> Image:
        """The picture as Pillow has it, in RGB.

        Raises:
            MissingExtraError: When Pillow is not installed.
        """
        check_pillow()
        from PIL import Image

        with Image.open(io.BytesIO(self.data), formats=("JPEG",)) as image:
            return image.convert("RGB")


def check_pillow() -> None:
    """Check that Pillow is there.

    Raises:
        MissingExtraError: When it is not installed.
    """
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        raise MissingExtraError("Pillow", "pictures") from None


def plain_picture(width: int, height: int) -> Picture:
    """A red picture of this size, in pixels, to try a model with."""
    check_pillow()
    from PIL import Image

    return _written(Image.new("RGB", (width, height), (220, 30, 30)))


def prepare(data: bytes, pictures: Pictures) -> Picture:
    """Decode a picture, scale it down and write it anew.

    Its kind is found by its content. Of an animation the first frame counts; transparent places become white.

    Raises:
        PictureError: When it is too large, or is not a whole JPEG, PNG, WebP or GIF.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > pictures.max_pixels:
                raise PictureError("pixels")
            if max(width, height) > _MOST_LENGTHENED * min(width, height):
                raise PictureError("format")
            edge = pictures.max_edge
            seen = image if image.mode in ("L", "RGB") else _flat(image)
            seen.thumbnail((edge, edge))  # which decodes a JPEG at a fraction of its size
            return _written(ImageOps.exif_transpose(seen).convert("RGB"))
    except PictureError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PictureError("pixels") from None
    except Exception:  # broken files raise all kinds of errors
        raise PictureError("format") from None


def _flat(image: Image) -> Image:
    """The picture in RGB, on white where it is transparent, with its orientation."""
    from PIL import Image as Pillow

    if not image.has_transparency_data:
        flat = image.convert("RGB")
    else:
        seen = image.convert("RGBA")
        flat = Pillow.new("RGB", seen.size, (255, 255, 255))
        flat.paste(seen, mask=seen.getchannel("A"))
    flat.info["exif"] = image.getexif().tobytes()
    return flat


def _written(image: Image) -> Picture:
    clean = image.copy()
    clean.info.clear()  # Pillow would write a comment or a colour profile again
    out = io.BytesIO()
    clean.save(out, "JPEG", quality=_QUALITY)
    return Picture(out.getvalue(), *image.size)
