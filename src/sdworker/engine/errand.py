"""Something else than a drawing to do on the engine's thread."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

__all__ = ["Errand"]

T = TypeVar("T")


class Errand(Generic[T]):
    """A function, and where its result goes."""

    def __init__(self, function: Callable[[], T]) -> None:
        self.result: Future[T] = Future()
        self._function = function

    def run(self) -> None:
        """Call the function unless nobody waits for it any more; what goes wrong goes where the result would.

        Raises:
            BaseException: what the function raises, too, for whoever must know whether to go on.
        """
        if not self.result.set_running_or_notify_cancel():
            return
        try:
            result = self._function()
        except Exception as error:
            self.result.set_exception(error)
            raise
        self.result.set_result(result)

    def fail(self, error: Exception) -> None:
        """Tell whoever waits, if that was not done."""
        if not self.result.done():
            self.result.set_exception(error)
