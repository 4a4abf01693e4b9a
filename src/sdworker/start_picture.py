"""The picture that a job starts from, and its mask, at the size of each of its passes."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sdworker.decoder.resize import Resize
from sdworker.pictures import PictureFile, PictureLimits, decode_mask, decode_picture, fetch_picture
from sdworker.request import Request

__all__ = ["StartPicture"]

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass
class StartPicture:
    """The files that a job brought, to be decoded as often as there are sizes.

    Attributes:
        resize: how they come to size.
        own_size: the picture's, once it was decoded.
    """

    picture: PictureFile
    mask: PictureFile | None
    resize: Resize
    own_size: Size | None = None

    @classmethod
    async def fetch(cls, request: Request, limits: PictureLimits) -> Self | None:
        """Those of a request; None where it starts from none.

        Raises:
            PictureError: one cannot be had.
        """
        if request.init_image is None:
            return None
        files = [fetch_picture(request.init_image, field="init_image", limits=limits)]
        if request.mask is not None:
            files.append(fetch_picture(request.mask, field="mask", limits=limits))
        picture, *masks = await asyncio.gather(*files)
        return cls(picture, masks[0] if masks else None, request.resize)

    async def decode(self, fit: Callable[[Size], Size]) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """The picture, [height, width, 3], and the mask, [height, width] or None.

        Args:
            fit: from the picture's own size to the one that is wanted.

        Raises:
            PictureError: one is no picture.
            Exception: what `fit` raises.
        """

        def noted(size: Size) -> Size:
            self.own_size = size
            return fit(size)

        image = await decode_picture(self.picture, noted, self.resize)
        if self.mask is None:
            return image, None
        height, width = image.shape[:2]
        return image, await decode_mask(self.mask, (width, height), self.resize, like=self.own_size)
