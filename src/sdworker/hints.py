"""What ControlNets are shown: the pictures that jobs bring for them, fetched, decoded and prepared."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdworker.decoder.resize import Resize
from sdworker.pictures import PictureLimits, decode_hint, fetch_picture
from sdworker.pictures.hints import prepare_hint
from sdworker.request.controls import Control as Asked

__all__ = ["Shown", "hints_of"]

_RESIZES: Mapping[str, Resize] = {"stretch": "stretch", "crop": "crop", "fit": "fill"}


@dataclass(frozen=True)
class Shown:
    """A pass of a job, whose nets are shown hints of its size.

    Attributes:
        size: width and height.
        picture: uint8 [height, width, 3], what the job starts from at that size; the hint of a control without a
            picture of its own.
    """

    size: tuple[int, int]
    picture: NDArray[np.uint8] | None


async def hints_of(
    asked: Asked, number: int, passes: Sequence[Shown], limits: PictureLimits
) -> list[NDArray[np.uint8]]:
    """What the net is shown in each pass, uint8 [height, width, 3]. It is made of the picture at that pass's size,
    so that lines are as thin in the second as in the first.

    Args:
        number: of the control among the job's.

    Raises:
        UserError: the picture cannot be had; naming the field.
    """
    file = (
        None
        if asked.image is None
        else await fetch_picture(asked.image, field=f"controls[{number}].image", limits=limits)
    )
    hints = []
    for one in passes:
        if file is not None:
            pixels = await decode_hint(file, one.size, _RESIZES[asked.resize])
        else:
            assert one.picture is not None, "the contract wants a picture"
            pixels = one.picture
        hints.append(await asyncio.to_thread(prepare_hint, pixels, asked.preprocessor, asked.thresholds))
    return hints
