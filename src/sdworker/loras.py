"""From the LoRAs that a job names to those that the engine draws with: found, fetched, read."""

import asyncio
from collections.abc import Sequence

from sdworker.assets import AddOns, Kind
from sdworker.engine.lora import LoraError, LoraUse, LoraWeights
from sdworker.engine.shelf import Shelf
from sdworker.request import Lora, short_name

__all__ = ["Loras"]


class Loras:
    """The LoRAs of one model."""

    def __init__(self, add_ons: AddOns, shelf: Shelf[LoraWeights]) -> None:
        self._add_ons = add_ons
        self._shelf = shelf

    async def find(self, asked: Sequence[Lora]) -> tuple[LoraUse, ...]:
        """All of them, read; the first that cannot be had ends it.

        Raises:
            AddOnError, LoraError: with a message for the user.
        """
        return tuple(await asyncio.gather(*(self._find(lora) for lora in asked)))

    async def _find(self, lora: Lora) -> LoraUse:
        path = await self._add_ons.find(Kind.LORA, lora.name, sha256=lora.sha256)
        try:
            key, weights = await self._shelf.read(path)
        except LoraError as error:
            raise LoraError(f"LoRA {short_name(lora.name)!a}: {error}") from error
        return LoraUse(key, weights, lora.scale, lora.strength_of_text)
