"""ControlNets in use: loaded when first asked for, off the engine's thread, and kept within a budget.

Who draws with nets holds a lease of all of them until it is done. A net that nobody leases stays until its memory
is needed, and the one that was leased longest ago goes first. Leases are given in the order in which they are
asked for, each whole, so that two jobs never wait for each other.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from sdworker.engine.controls.errors import ControlError
from sdworker.engine.controls.net import ControlNet
from sdworker.engine.networks.model import Model

__all__ = ["ControlNets"]

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Kept:
    net: ControlNet
    users: int = 0


class ControlNets:
    """The ControlNets of one model. For one event loop."""

    def __init__(self, model: Model, *, budget_bytes: int, channels_last: bool = True) -> None:
        """
        Args:
            model: what they are for; used for no more than its configuration.
            budget_bytes: most memory of the nets that are kept. What jobs need at once is loaded whatever it
                takes, where nobody else holds any.
        """
        self._model = model
        self._budget_bytes = budget_bytes
        self._channels_last = channels_last
        self._kept: OrderedDict[Path, _Kept] = OrderedDict()  # the one leased longest ago first
        self._turn = asyncio.Lock()
        self._returned = asyncio.Event()

    @property
    def used_bytes(self) -> int:
        """Memory of those that are here."""
        return sum(kept.net.bytes_ for kept in self._kept.values())

    @contextlib.asynccontextmanager
    async def lease(self, named: Mapping[str, Path]) -> AsyncIterator[dict[str, ControlNet]]:
        """Nets by the names they are asked for, there for as long as it is open.

        Args:
            named: name → the net's folder or file.

        Raises:
            ControlError: one cannot be loaded; naming it.
        """
        held: list[_Kept] = []
        try:
            async with self._turn:
                for name, path in named.items():
                    held.append(await self._hold(name, path, held))
            yield {name: kept.net for name, kept in zip(named, held, strict=True)}
        finally:
            for kept in held:
                kept.users -= 1
            self._returned.set()

    async def _hold(self, name: str, path: Path, ours: list[_Kept]) -> _Kept:
        """Count one more user of a net, loaded if it is not here."""
        kept = self._kept.get(path)
        if kept is None:
            net = await asyncio.to_thread(self._load, name, path)
            await self._make_room(net.bytes_, ours)
            await self._place(net)
            kept = self._kept[path] = _Kept(net)
        self._kept.move_to_end(path)
        kept.users += 1
        return kept

    def _load(self, name: str, path: Path) -> ControlNet:
        from sdworker.engine.controls.files import load_control_net  # here: a start needs nothing of it

        net = load_control_net(path, name=name, model=self._model)
        log.info("ControlNet %s: %.0f MB", name, net.bytes_ / 2**20)
        return net

    async def _make_room(self, needed: int, ours: list[_Kept]) -> None:
        """Let go of those that nobody leases until it fits; wait for leases to end where others hold too much."""
        while self.used_bytes + needed > self._budget_bytes:
            if self._drop_one():
                continue
            if all(kept in ours for kept in self._kept.values()):
                return
            self._returned.clear()
            await self._returned.wait()

    async def _place(self, net: ControlNet) -> None:
        """Bring it onto the device. The copy is queued among the steps, and holds up none while it is prepared."""
        while True:
            try:
                await asyncio.to_thread(net.place, self._model.device, channels_last=self._channels_last)
            except (torch.OutOfMemoryError, MemoryError) as error:
                if not self._drop_one():
                    raise ControlError(
                        f"no memory is left for the ControlNet {net.name!r}; send the job again, or without it"
                    ) from error
            else:
                return

    def _drop_one(self) -> bool:
        """Let go of the one of which nobody has had use for longest; False: all are in use."""
        path = next((path for path, kept in self._kept.items() if not kept.users), None)
        if path is not None:
            del self._kept[path]
        return path is not None
