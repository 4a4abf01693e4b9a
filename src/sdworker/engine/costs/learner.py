"""What steps cost here, learned by measuring, part by part, when nobody waits for it.

All is measured twice, a minute or more apart, and the better time of each number of rows counts: a worker that had
to share its processor in its first seconds, with others that were starting too, would go by wrong figures for
good.
"""

import logging
import threading
import time

from sdworker.engine.costs.calibration import Calibration, Measurable
from sdworker.engine.costs.step_costs import ASSUMED_SECONDS, StepCosts

__all__ = ["CostLearner"]

log = logging.getLogger(__name__)

# More rows than any hardware of today gains from at the size a model was trained for.
_MOST_ROWS = 64
# Where there is always something to draw, the first part is due after so long, and each next one.
_FIRST_DUE_S = 20.0
_NEXT_DUE_S = 2.0
_AGAIN_AFTER_S = 60.0


class CostLearner:
    """Owns the costs that the engine goes by: assumed ones until all is measured. For the engine's thread.

    Attributes:
        costs: to be read from any thread.
    """

    def __init__(self, model: Measurable, *, max_rows: int | None) -> None:
        """
        Args:
            max_rows: most rows in a forward. None: as many as are found to be worth it.
        """
        self.costs = StepCosts(ASSUMED_SECONDS, model.default_shape, max_rows=max_rows)
        self._model: Measurable | None = model
        self._max_rows = max_rows
        self._stop = threading.Event()
        self._calibration: Calibration | None = None
        self._due_at = 0.0
        self._best: dict[int, float] = {}
        self._again_at: float | None = None

    @property
    def has_more(self) -> bool:
        """Whether there is something left to measure, and a model to measure it on."""
        if self._stop.is_set() or self._model is None:
            return False
        return self._calibration is not None or self._is_to_be_done_again()

    @property
    def has_begun(self) -> bool:
        """Whether anything was measured, or is to be."""
        return bool(self._best) or self._calibration is not None or self._again_at is not None

    def join(self, model: Measurable) -> None:
        """Measure on this one where there is none; all that a learner ever has are of one architecture."""
        if self._model is None:
            self._model = model

    def leave(self, model: Measurable) -> None:
        """Measure on it no more; what was being measured is measured anew on the next one."""
        if self._model is not model:
            return
        self._model = None
        if self._calibration is not None:
            self._calibration = None
            self._again_at = time.monotonic()

    @property
    def knows(self) -> bool:
        """Whether `costs` were measured; until then they are assumed."""
        return bool(self._best)

    def stop(self) -> None:
        """Measure nothing more, after the forward at hand; for any thread."""
        self._stop.set()

    def begin(self) -> None:
        """From now on there is; `learn_more` does it."""
        assert self._model is not None, "there is a model to measure on"
        self._again_at = None
        self._calibration = Calibration(
            self._model,
            largest=self._max_rows or _MOST_ROWS,
            only_worthwhile=self._max_rows is None,
            stop=self._stop,
        )
        self._due_at = time.monotonic() + _FIRST_DUE_S

    def is_overdue(self) -> bool:
        """Whether to measure for the first time though there is something to draw, because there always was."""
        return not self._best and self.has_more and time.monotonic() > self._due_at

    def learn_all(self) -> None:
        """Measure everything now.

        Raises:
            Exception: whatever the forwards raise.
        """
        self.begin()
        while self._calibration is not None:
            self.learn_more()

    def learn_more(self) -> None:
        """Measure one number of rows, some tenths of a second; after the last, go by what was measured.

        Raises:
            Exception: whatever the forwards raise; then nothing more is measured.
        """
        if self._is_to_be_done_again():
            self.begin()
        calibration, self._calibration = self._calibration, None
        if calibration is None:
            return
        calibration.measure_next()
        self._due_at = time.monotonic() + _NEXT_DUE_S
        if calibration.done:
            self._go_by(calibration)
        else:
            self._calibration = calibration

    def _is_to_be_done_again(self) -> bool:
        return self._again_at is not None and time.monotonic() > self._again_at

    def _go_by(self, calibration: Calibration) -> None:
        assert self._model is not None, "it was just measured"
        shape = self._model.default_shape
        if not self._best:
            self._again_at = time.monotonic() + _AGAIN_AFTER_S
        for rows, seconds in calibration.seconds.items():
            self._best[rows] = min(seconds, self._best.get(rows, seconds))
        self.costs.learn(self._best)
        if calibration.out_of_memory:
            self.costs.remember_lack_of_memory(shape, max(calibration.seconds))
            self._model.free_memory()
        log.info(
            "a step takes %s; at most %d rows share one",
            ", ".join(f"{1000 * seconds:.3g} ms for {rows} rows" for rows, seconds in self._best.items()),
            self.costs.limit(shape),
        )
