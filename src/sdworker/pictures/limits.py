"""What a picture may cost."""

from dataclasses import dataclass
from typing import Self

from sdworker.decoder.errors import PictureError
from sdworker.settings import Settings

__all__ = ["PictureError", "PictureLimits"]


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """What one input picture may cost.

    Attributes:
        max_bytes: as it is sent: the file, not its base64.
        max_pixels: width x height, checked before anything is decoded.
        timeout_s: until the last byte has arrived: name lookup, redirects and body together.
        allow_private: whether URLs may lead to loopback and private networks.
    """

    max_bytes: int
    max_pixels: int
    timeout_s: float
    allow_private: bool = False

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(
            max_bytes=round(settings.max_image_mb * 1e6),
            max_pixels=round(settings.max_image_megapixels * 1e6),
            timeout_s=settings.image_timeout_s,
            allow_private=settings.runpod_allow_private_download_urls,
        )

    def refuse_bytes(self, size: int | None = None) -> PictureError:
        """The error for a picture of `size` bytes, or of more than it was worth counting."""
        found = f"is {round(size / 1e6, 2):g} MB" if size is not None else "is too large"
        return PictureError(
            f"the picture {found}; at most {self.max_bytes / 1e6:g} MB are taken (MAX_IMAGE_MB)"
        )
