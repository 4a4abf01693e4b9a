"""Bytes of a picture file to pixels, whatever mode the file is in.

Only formats that Pillow decodes inside this process are tried: never EPS, PDF and others that hand
the file to a program. The size is read from the header and checked before any pixel is decoded.
"""

from io import BytesIO

import numpy as np
from PIL import AvifImagePlugin, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from sdworker.pictures.limits import PictureError, PictureLimits

__all__ = ["decode_mask", "decode_picture"]

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# Importing a plugin registers it. Image.open would load all of them, EPS too, to find one of these.
_PLUGINS = (AvifImagePlugin, TiffImagePlugin, WebPImagePlugin)
_16_TO_8_BIT = (np.arange(65536) / 257).round().astype(np.uint8)
_WANTED = "send PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF"


def decode_picture(data: bytes, limits: PictureLimits) -> Image.Image:
    """The picture in `data`: first frame, upright, mode "RGB", transparent parts on white.

    Raises:
        PictureError: no picture, a broken one, or more than `limits.max_pixels`.
    """
    return _flatten(_open(data, limits), background="white").convert("RGB")


def decode_mask(data: bytes, limits: PictureLimits) -> Image.Image:
    """The mask in `data`: first frame, upright, mode "L", transparent parts black.

    Raises: as `decode_picture`.
    """
    # By way of RGB, which every mode converts to; greys come through it unchanged.
    return _flatten(_open(data, limits), background="black").convert("RGB").convert("L")


def _open(data: bytes, limits: PictureLimits) -> Image.Image:
    """The first frame, upright, with 8 bits a channel."""
    try:
        image: Image.Image = Image.open(BytesIO(data), formats=_FORMATS)
        if image.width * image.height > limits.max_pixels:
            raise limits.refuse_pixels(image.width, image.height)
        image.load()
        return _to_8_bit(_upright(image))
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError(_explain_unknown(data)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError("the picture has far too many pixels (MAX_IMAGE_MEGAPIXELS)") from error
    except Exception as error:
        # Decoders fail in every way there is (struct.error, KeyError, SyntaxError, ...) when a
        # file is broken; all of them are the file's fault.
        raise PictureError("the picture is damaged, cut short, or of a kind that cannot be read") from error


def _upright(image: Image.Image) -> Image.Image:
    """`image` turned as its EXIF orientation says."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        # The pixels are good; a broken EXIF block is no reason to refuse them.
        return image


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Modes wider than 8 bits scaled to "L" (or "LA"); Pillow's own conversion would clip them.

    "I;16" spans its 16 bits and "F" 0 to 1 (0 to 255 where a value is above 1). "I" does not say
    what its white is: 255, 65535 or 2**31 - 1, the least that holds its brightest pixel.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)  # [height, width]
    if image.mode.startswith("I;16"):
        grey = Image.fromarray(_16_TO_8_BIT[values])
    else:
        scaled = np.nan_to_num(values.astype(np.float32))
        scaled *= 255 / _white_of(image.mode, float(scaled.max()))
        grey = Image.fromarray(scaled.round(out=scaled).clip(0, 255, out=scaled).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _white_of(mode: str, brightest: float) -> float:
    if mode == "F":
        return 1 if brightest <= 1 else 255
    return next((limit for limit in (255, 65535) if brightest <= limit), 2**31 - 1)


def _flatten(image: Image.Image, *, background: str) -> Image.Image:
    """`image` laid on `background`, if any of it can be transparent."""
    if not image.has_transparency_data:
        return image
    canvas = Image.new("RGBA", image.size, background)
    return Image.alpha_composite(canvas, image.convert("RGBA"))


def _explain_unknown(data: bytes) -> str:
    """Why `data` is no picture, as far as its first bytes tell. They are not repeated."""
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return f"this is a web page, not a picture; give the picture's own URL, or {_WANTED}"
    if start.startswith(b"<svg") or (
        start.startswith((b"<?xml", b"<!doctype svg", b"<!--")) and b"svg" in start
    ):
        return f"SVG is not taken; {_WANTED}"
    if start[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1"):
        return f"HEIC is not taken; {_WANTED}"
    if start.startswith((b"%pdf", b"%!ps")):
        return f"PDF and PostScript are not taken; {_WANTED}"
    return f"this is not a picture, or it is damaged or of a kind that is not taken; {_WANTED}"
