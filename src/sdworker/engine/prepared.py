"""UNet forwards prepared for one number of rows and one size: compiled, captured as a CUDA graph, or both.

The plain forward is diffusers' own. It launches about a thousand small kernels, which for few rows takes the CPU
longer than it takes a large GPU to run them; a CUDA graph launches them all at once. Compiling fuses many of them.
Both hold for fixed shapes only. So a forward is prepared for some numbers of rows, fewer are padded to one of
them, and it is kept only if it gives what the plain one gives and is quicker; in every other case the plain one
runs. How it is done is `preparation.py`'s affair.
"""

import logging
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial

import torch

from sdworker.engine.costs import Shape
from sdworker.engine.unet_input import UNetInput

__all__ = ["ROWS", "Forward", "Prepare", "Prepared"]

log = logging.getLogger(__name__)

Forward = Callable[[UNetInput], torch.Tensor]
"""Of so many rows → [rows, 4, h, w], all but the timesteps in the network's own precision."""

Prepare = Callable[[Forward, UNetInput], Forward]
"""Makes a forward quicker for inputs like this, or raises whatever it likes."""

Key = tuple[int, Shape, Hashable]
"""Rows, size, and of what kind the input is otherwise."""

# What is between is padded to the next.
ROWS = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64)
# Of the plain forward's norm. Rounding in half precision comes to some thousandths.
_LARGEST_ERROR = 0.01
# Each holds its inputs and the list of its kernels, some megabytes; their working memory they share.
_MOST_KEPT = 24
# Shapes of which few forwards are seen, the steps of a picture or two, are not worth the time to prepare them.
_ENOUGH_RUNS = 60
_MOST_COUNTED = 1000


@dataclass
class _Kept:
    """A prepared forward; `ratio` is its time over the plain one's."""

    forward: Forward
    ratio: float


class Prepared:
    """A forward that runs as it was prepared, where it was and that pays, and else plainly."""

    def __init__(
        self,
        forward: Forward,
        prepare: Prepare,
        time_call: Callable[[Callable[[], object]], float],
        *,
        when_idle: bool,
    ) -> None:
        """
        Args:
            forward: the plain one.
            prepare: makes it quicker.
            time_call: seconds of a call, first times apart.
            when_idle: whether `prepare_wanted` prepares what was asked for meanwhile: only what is quickly done.
        """
        self._forward = forward
        self._prepare = prepare
        self._time_call = time_call
        self._when_idle = when_idle
        self._kept: dict[Key, _Kept] = {}
        self._refused: set[Key] = set()
        self._plain_runs: Counter[Key] = Counter()
        self._wanted: dict[Key, UNetInput] = {}

    def __call__(self, inputs: UNetInput) -> torch.Tensor:
        """The forward's output; its own memory, which a later call leaves alone."""
        key = _key(inputs)
        rows, padded_rows = inputs.rows, key[0]
        kept = self._kept.pop(key, None)
        if kept is None:
            if self._when_idle:
                self._note(key, inputs)
            return self._forward(inputs)
        self._kept[key] = kept  # the last used is the last to go
        if kept.ratio > rows / padded_rows:  # the padding may cost more than the preparation gains
            return self._forward(inputs)
        return kept.forward(inputs.pad(padded_rows))[:rows]

    def prepare(self, inputs: UNetInput) -> bool:
        """Prepare for inputs like this; whether they run prepared from now on."""
        key = _key(inputs)
        self._wanted.pop(key, None)
        if key not in self._kept and not self._is_refused(key):
            self._try(key, inputs.pad(key[0]))
        return key in self._kept

    @property
    def is_wanted(self) -> bool:
        """Whether forwards ran plainly, often, that might not have to."""
        return bool(self._wanted)

    def prepare_wanted(self) -> None:
        """Prepare one of those, the last that was met."""
        if self._wanted:
            self.prepare(self._wanted[next(reversed(self._wanted))])

    def forget(self) -> None:
        """Give up what was prepared, and the memory that takes."""
        self._kept.clear()
        self._wanted.clear()

    def _note(self, key: Key, inputs: UNetInput) -> None:
        """Such a forward ran plainly: how often, and when that was often enough, what it was."""
        if len(self._plain_runs) >= _MOST_COUNTED:
            self._plain_runs.clear()
        self._plain_runs[key] += 1
        if self._plain_runs[key] == _ENOUGH_RUNS and not self._is_refused(key):
            self._wanted[key] = inputs

    def _try(self, key: Key, inputs: UNetInput) -> None:
        """Prepare, and keep what came of it if it is right and quicker."""
        rows, (height, width), _ = key
        what = f"a forward of {rows} rows of {width}x{height} latents"
        try:
            quicker = self._prepare(self._forward, inputs)
            error = _error(quicker(inputs), self._forward(inputs))
            ratio = self._time_call(partial(quicker, inputs)) / self._time_call(
                partial(self._forward, inputs)
            )
        except Exception as problem:  # compilers raise anything; whatever it is, the plain forward remains
            _raise_if_lost(inputs)
            reason = f"{type(problem).__name__}: {problem}".splitlines()[0]
            log.warning("%s cannot be prepared, and runs plainly: %s", what, reason)
            log.debug("the cause", exc_info=problem)
            self._refused.add(key)
            return
        if error > _LARGEST_ERROR or ratio > 1:
            log.info("%s runs plainly: prepared, it took %.2f of its time, %.2g off", what, ratio, error)
            self._refused.add(key)
            return
        log.info("%s was prepared: it takes %.2f of the plain one's time", what, ratio)
        while len(self._kept) >= _MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = _Kept(quicker, ratio)

    def _is_refused(self, key: Key) -> bool:
        """Where it did not pay, it does not for more rows or a larger size either: there is more for the device
        to do, and as much for the CPU."""
        return any(key[2] == other[2] and _area(key) >= _area(other) for other in self._refused)


def _key(inputs: UNetInput) -> Key:
    """With the rows that it will be padded to."""
    return next((rows for rows in ROWS if rows >= inputs.rows), inputs.rows), inputs.shape, inputs.key


def _area(key: Key) -> int:
    rows, (height, width), _ = key
    return rows * height * width


def _error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The norm of what they are apart, of theirs; infinite where either is not finite."""
    apart = torch.linalg.vector_norm(ours.float() - theirs.float())
    error = float(apart / torch.linalg.vector_norm(theirs.float()))
    return error if error == error else float("inf")


def _raise_if_lost(inputs: UNetInput) -> None:
    """From a device that is lost, unlike from a capture that failed, there is no way back to the plain forward."""
    if inputs.latents.is_cuda:
        torch.cuda.synchronize()
