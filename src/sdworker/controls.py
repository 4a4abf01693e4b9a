"""The ControlNets of jobs: the nets found and loaded, the pictures fetched and prepared."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdworker.assets import AddOnError, AddOns, Kind
from sdworker.decoder.resize import Resize
from sdworker.engine.controls import Control, ControlError
from sdworker.engine.controls.store import ControlNets
from sdworker.pictures import PictureLimits, decode_hint, fetch_picture
from sdworker.pictures.hints import prepare_hint
from sdworker.request.controls import Control as Asked

__all__ = ["Controls", "Shown"]

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


class Controls:
    """Makes what the engine draws with of what jobs ask for."""

    def __init__(self, add_ons: AddOns, nets: ControlNets, limits: PictureLimits) -> None:
        self._add_ons = add_ons
        self._nets = nets
        self._limits = limits

    @contextlib.asynccontextmanager
    async def lease(
        self, asked: Sequence[Asked], passes: Sequence[Shown]
    ) -> AsyncIterator[list[tuple[Control, ...]]]:
        """The controls of each pass of a job; their nets stay loaded for as long as it is open.

        Raises:
            UserError: a net or a picture cannot be had; naming the field.
        """
        if not asked:
            yield [()] * len(passes)
            return
        hints = [await self._hints(one, number, passes) for number, one in enumerate(asked)]
        named = {}
        for number, one in enumerate(asked):
            try:
                named[one.model] = await self._add_ons.find(Kind.CONTROLNET, one.model)
            except AddOnError as error:
                raise AddOnError(f"controls[{number}].model: {error}") from error.__cause__
        async with contextlib.AsyncExitStack() as stack:
            try:
                nets = await stack.enter_async_context(self._nets.lease(named))
            except ControlError as error:
                raise ControlError(f"controls: {error}") from error.__cause__
            yield [
                tuple(
                    Control(
                        net=nets[one.model],
                        hint=shown[number],
                        scale=one.scale,
                        start=one.start,
                        end=one.end,
                        guess_mode=one.guess_mode,
                    )
                    for one, shown in zip(asked, hints, strict=True)
                )
                for number in range(len(passes))
            ]

    async def _hints(self, asked: Asked, number: int, passes: Sequence[Shown]) -> list[NDArray[np.uint8]]:
        """What the net is shown in each pass, uint8 [height, width, 3]. It is made of the picture at that pass's
        size, so that lines are as thin in the second as in the first."""
        file = (
            None
            if asked.image is None
            else await fetch_picture(asked.image, field=f"controls[{number}].image", limits=self._limits)
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
