"""The ControlNets of jobs: the nets found and loaded, the pictures fetched and prepared."""

import contextlib
from collections.abc import AsyncIterator, Sequence

from sdworker.assets import AddOnError, AddOns, Kind
from sdworker.engine.controls import Control, ControlError
from sdworker.engine.controls.store import ControlNets
from sdworker.hints import Shown, hints_of
from sdworker.pictures import PictureLimits
from sdworker.request.controls import Control as Asked

__all__ = ["Controls", "Shown"]


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
        hints = [await hints_of(one, number, passes, self._limits) for number, one in enumerate(asked)]
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
