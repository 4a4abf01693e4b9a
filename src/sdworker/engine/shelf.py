"""Add-on files as they were read, kept in memory; each is read once however many jobs want it."""

import asyncio
import contextlib
import re
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from sdworker.engine.processor import stand_back

__all__ = ["Shelf"]

_SHA256 = re.compile(r"[0-9a-f]{64}")


class _Sized(Protocol):
    @property
    def bytes_(self) -> int: ...


Content = TypeVar("Content", bound=_Sized)


class Shelf(Generic[Content]):
    """For one event loop. The least recently used go when there are too many."""

    def __init__(self, read: Callable[..., Content], *, most_bytes: int) -> None:
        """
        Args:
            read: a file's content, by its path; called in threads.
            most_bytes: of all that are kept.
        """
        self._read = read
        self._most_bytes = most_bytes
        self._kept: OrderedDict[Hashable, Content] = OrderedDict()
        self._coming: dict[Hashable, Future[Content]] = {}
        self._readers = ThreadPoolExecutor(2, "add-ons", initializer=stand_back)

    async def read(self, path: Path, **words: Any) -> tuple[Hashable, Content]:
        """What a file is known by, for a changed one is another, and its content.

        Args:
            words: handed on to the reading function by whoever has it read first; they tell no files apart.

        Raises:
            Exception: what reading it raises.
        """
        key = await asyncio.to_thread(_key_of, path)
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            return key, kept
        coming = self._coming.get(key)
        if coming is None:
            loop = asyncio.get_running_loop()
            coming = self._coming[key] = self._readers.submit(partial(self._read, path, **words))
            coming.add_done_callback(lambda _: _tell(loop, self._arrived, key))
        return key, await asyncio.shield(asyncio.wrap_future(coming))

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
    """A kept file is named by its hash, and its times say when it was used. One that is gone has none: reading it
    says so."""
    if _SHA256.fullmatch(path.name):
        return path.name
    try:
        status = path.stat()
    except OSError:
        return path
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
