"""What ControlNets are shown: the pictures that jobs bring for them, fetched, decoded and prepared."""

import asyncio
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sdworker.decoder.resize import Resize
from sdworker.pictures import PictureLimits, decode_hint, fetch_picture
from sdworker.pictures.hints import prepare_hint
from sdworker.request.controls import Control as Asked

__all__ = ["hint_of"]

_RESIZES: Mapping[str, Resize] = {"stretch": "stretch", "crop": "crop", "fit": "fill"}


async def hint_of(
    asked: Asked,
    number: int,
    size: tuple[int, int],
    picture: NDArray[np.uint8] | None,
    limits: PictureLimits,
) -> NDArray[np.uint8]:
    """What the net is shown, uint8 [height, width, 3].

    Args:
        number: of the control among the job's.
        size: the drawing's width and height.
        picture: what the drawing starts from, of that size; for a control without a picture of its own.

    Raises:
        UserError: the picture cannot be had; naming the field.
    """
    if asked.image is None:
        assert picture is not None, "the contract wants a picture"
        pixels = picture
    else:
        file = await fetch_picture(asked.image, field=f"controls[{number}].image", limits=limits)
        pixels = await decode_hint(file, size, _RESIZES[asked.resize])
    return await asyncio.to_thread(prepare_hint, pixels, asked.preprocessor, asked.thresholds)
