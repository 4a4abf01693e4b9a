"""What a ControlNet will be shown, made without drawing: for the page, beside the picture that was given."""

import base64
import io
from collections.abc import Mapping
from typing import Any

from PIL import Image

from sdworker.errors import UserError
from sdworker.hints import Shown, hints_of
from sdworker.pictures import PictureLimits
from sdworker.request import Contract, InputError
from sdworker.settings import Settings

__all__ = ["HintPainter"]

_LONGEST_SIDE = 512
_QUALITY = 90


class HintPainter:
    """Makes hints of jobs' inputs."""

    def __init__(self, settings: Settings, contract: Contract) -> None:
        self._limits = PictureLimits.from_settings(settings)
        self._contract = contract

    async def paint(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What the first of an input's ControlNets is shown: `{"image": a data URI, "width", "height"}`.

        The input names its size, and the ControlNet has a picture of its own. The image is 512 pixels at most.

        Raises:
            UserError: the input makes no sense, or the picture cannot be had.
        """
        request = self._contract.parse({"prompt": "-", **given})
        if (
            not request.controls
            or request.controls[0].image is None
            or not (request.width and request.height)
        ):
            raise InputError("controls: there is none with a picture and a size")
        size = (request.width, request.height)
        try:
            (pixels,) = await hints_of(request.controls[0], 0, [Shown(size, None)], self._limits)
        except UserError as error:
            raise InputError(str(error).removeprefix("controls[0].image: ")) from error
        image = Image.fromarray(pixels)
        image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=_QUALITY)
        data = base64.b64encode(file.getvalue()).decode()
        return {"image": f"data:image/jpeg;base64,{data}", "width": size[0], "height": size[1]}
