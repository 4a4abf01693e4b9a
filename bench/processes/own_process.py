"""Each contender in a process of its own, asked in turn.

Two threads of one process that both compute on a CPU get a team of OpenMP threads each, and these get into each
other's way (`sdworker/engine/processor.py`). The engine has a thread of its own, so whatever it is compared with
runs elsewhere, and the bench itself computes nothing while it waits.
"""

from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from types import TracebackType
from typing import Any, Self

__all__ = ["OwnProcess"]


class OwnProcess:
    """Runs one module's functions, one at a time, all in the main thread of the same new process.

    Only that process imports the module. What it should keep from call to call, the module caches.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        self._pool.submit(import_module, module)  # imports while others start

    def call(self, function: str, *arguments: Any) -> Any:
        """The function's answer; arguments, answer and exceptions are pickled on their way."""
        return self._pool.submit(_call, self._module, function, arguments).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()


def _call(module: str, function: str, arguments: tuple[Any, ...]) -> Any:
    return getattr(import_module(module), function)(*arguments)
