"""`handler.py` whose engine dies in the middle of a step, in the ways a thread can."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import sdworker.process.begin  # noqa: F401

# isort: split
import runpod

from sdworker.engine.networks import Networks
from sdworker.serverless import configure
from sdworker.worker import Worker


class PanicException(BaseException):
    """As Rust's are: no Exception."""


HOW = {
    "SystemExit": SystemExit(77),
    "panic": PanicException("The global thread pool has not been initialized"),
    "GeneratorExit": GeneratorExit(),
}
_error = HOW[sys.argv.pop(1)]
_predict = Networks.predict
_warm_up = Worker.warm_up


def _dies(*_: object, **__: object) -> None:
    raise _error


async def _warm_up_and_die(worker: Worker) -> None:
    await _warm_up(worker)
    Networks.predict = _dies  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    Worker.warm_up = _warm_up_and_die  # type: ignore[method-assign, assignment]
    runpod.serverless.start(configure())
