"""LoRA files as they were read, kept in memory; each is read once however many jobs want it."""

import asyncio
import contextlib
import re
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from sdworker.engine.lora.low_rank import Target
from sdworker.engine.lora.reader import LoraError, LoraWeights, read_lora
from sdworker.engine.processor import use_cores

__all__ = ["LoraShelf"]

_SHA256 = re.compile(r"[0-9a-f]{64}")


class LoraShelf:
    """For one event loop. The least recently used go when there are too many."""

    def __init__(self, targets: Mapping[str, Mapping[str, Target]], *, most_bytes: int) -> None:
        """
        Args:
            targets: the model's layers, by network.
            most_bytes: of all that are kept.
        """
        self._targets = targets
        self._most_bytes = most_bytes
        self._kept: OrderedDict[Hashable, LoraWeights] = OrderedDict()
        self._coming: dict[Hashable, Future[LoraWeights]] = {}
        # With one core: the engine has the others, and a second team of threads would slow it (processor.py).
        self._readers = ThreadPoolExecutor(2, "loras", initializer=use_cores, initargs=(1,))

    async def read(self, path: Path) -> tuple[Hashable, LoraWeights]:
        """A file, and what it is known by: a changed one is another.

        Raises:
            LoraError: it cannot be used with this model.
        """
        key = await asyncio.to_thread(_key_of, path)
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            return key, kept
        coming = self._coming.get(key)
        if coming is None:
            loop = asyncio.get_running_loop()
            coming = self._coming[key] = self._readers.submit(read_lora, path, self._targets)
            coming.add_done_callback(lambda _: _tell(loop, self._arrived, key))
        return key, await asyncio.shield(asyncio.wrap_future(coming))

    def close(self) -> None:
        """End its threads; nothing is read any more."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _arrived(self, key: Hashable) -> None:
        coming = self._coming.pop(key)
        if coming.cancelled() or coming.exception() is not None:
            return
        self._kept[key] = coming.result()
        while len(self._kept) > 1 and sum(one.bytes_ for one in self._kept.values()) > self._most_bytes:
            self._kept.popitem(last=False)


def _tell(loop: asyncio.AbstractEventLoop, function: Callable[[Hashable], None], key: Hashable) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
        loop.call_soon_threadsafe(function, key)


def _key_of(path: Path) -> Hashable:
    """A kept file is named by its hash, and its times say when it was used."""
    if _SHA256.fullmatch(path.name):
        return path.name
    try:
        status = path.stat()
    except OSError as error:
        raise LoraError(f"cannot be read: {error.strerror or type(error).__name__}") from error
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
