"""Upscalers that were used last, kept for the next job."""

import asyncio
from collections import OrderedDict
from pathlib import Path

import torch

from sdworker.engine.upscaling.upscaler import Upscaler

__all__ = ["Shelf"]

_MOST_BYTES = 256 * 2**20


class Shelf:
    """Loads upscalers off every thread that matters, each once, and keeps some. For one event loop."""

    def __init__(self, device: torch.device, most_bytes: int = _MOST_BYTES) -> None:
        """
        Args:
            device: where they run.
            most_bytes: of the weights of all that are kept; the last used one always is.
        """
        self._device = device
        self._most_bytes = most_bytes
        self._kept: OrderedDict[tuple[Path, int, int], asyncio.Task[Upscaler]] = OrderedDict()

    async def get(self, file: Path, name: str) -> Upscaler:
        """The upscaler in a file, as the file is now.

        Raises:
            UpscalerError: it cannot be used.
        """
        found = await asyncio.to_thread(file.stat)
        key = (file, found.st_mtime_ns, found.st_size)
        if key not in self._kept:
            load = asyncio.to_thread(Upscaler.load, file, name, device=self._device)
            self._kept[key] = asyncio.create_task(load)
        self._kept.move_to_end(key)
        try:
            upscaler = await asyncio.shield(self._kept[key])
        except Exception:
            self._kept.pop(key, None)
            raise
        self._drop_some()
        return upscaler

    def _drop_some(self) -> None:
        loaded = [(key, task.result().bytes) for key, task in self._kept.items() if _is_good(task)]
        held = sum(size for _, size in loaded)
        for key, size in loaded[:-1]:
            if held <= self._most_bytes:
                return
            del self._kept[key]
            held -= size


def _is_good(task: "asyncio.Task[Upscaler]") -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
