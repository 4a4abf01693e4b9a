"""The error of a picture that cannot be had."""

from sdworker.errors import UserError

__all__ = ["PictureError", "refuse_pixels"]


class PictureError(UserError):
    """A picture that cannot be had; the message is for the job's sender.

    It holds no picture content, no path of this machine, and of a URL neither credentials nor query.
    """


def refuse_pixels(width: int, height: int, max_pixels: int) -> PictureError:
    """The error for a picture of so many pixels."""
    return PictureError(
        f"the picture has {width}x{height} pixels ({width * height / 1e6:.1f} megapixels); "
        f"at most {max_pixels / 1e6:g} megapixels are taken (MAX_IMAGE_MEGAPIXELS)"
    )
