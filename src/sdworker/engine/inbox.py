"""What is submitted to the engine's thread, and the door that nothing passes once the thread has ended."""

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

from sdworker.engine.chores import Chore
from sdworker.engine.errand import Errand
from sdworker.engine.errors import EngineError, EngineLost
from sdworker.engine.generation import Generation

__all__ = ["SHUTTING_DOWN", "Inbox", "Item"]

SHUTTING_DOWN = "the worker is shutting down; send the job again"

Item: TypeAlias = Generation | Errand[Any] | list[Chore[Any]]
"""A drawing, something else to be done on the engine's thread, or the chores of one job."""


class Inbox:
    """Filled by any thread, emptied by the engine's.

    Attributes:
        lost: why nothing is drawn any more, if so.
        closed: nothing is taken any more.
        finish: what was taken is to be finished.
    """

    def __init__(self) -> None:
        self.lost: EngineLost | None = None
        self.closed = False
        self.finish = True
        self._items: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._on_lost: list[Callable[[EngineLost], None]] = []
        self._door = threading.Lock()  # nothing is submitted behind the end

    def __len__(self) -> int:
        return self._items.qsize()

    def check_open(self) -> None:
        """Raises: EngineError: nothing is taken any more."""
        with self._door:
            self._check_open()

    def put(self, item: Item) -> None:
        """Submit it.

        Raises:
            EngineError: nothing is taken any more.
        """
        with self._door:
            self._check_open()
            self._items.put(item)

    def get(self, *, wait: bool, timeout_s: float | None = None) -> Item | None:
        """The next one; None, and again at every further call, once all that came before the closing is taken.

        Raises:
            queue.Empty: there is none, or none came in time.
        """
        item = self._items.get(block=wait, timeout=timeout_s)
        if item is None:
            self._items.put(None)
        return item

    def close(self, *, finish: bool) -> None:
        """Take nothing new."""
        with self._door:
            self.closed = True
            self.finish = finish
            self._items.put(None)

    def when_lost(self, tell: Callable[[EngineLost], None]) -> None:
        """Have it told, on the engine's thread, when that ends without having been closed; or now, if it has."""
        with self._door:
            lost = self.lost
            if lost is None:
                self._on_lost.append(tell)
        if lost is not None:
            tell(lost)

    def end(self, reason: EngineError) -> list[Item]:
        """The thread ends: whoever comes from now on is told why.

        Returns:
            What was submitted and will not be done.
        """
        left: list[Item] = []
        with self._door:
            if isinstance(reason, EngineLost):
                self.lost = reason
            self.closed = True
            while not self._items.empty():
                item = self._items.get_nowait()
                if item is not None:
                    left.append(item)
        return left

    def tell_lost(self) -> None:
        """Tell whoever asked, if the thread has ended without having been closed."""
        if self.lost is not None:
            for tell in self._on_lost:
                tell(self.lost)

    def _check_open(self) -> None:
        if self.lost is not None:
            raise self.lost
        if self.closed:
            raise EngineError(SHUTTING_DOWN)
