"""What steps cost here, learned by measuring, part by part, when nobody waits for it."""

import logging
import time

from sdworker.engine.calibration import Calibration
from sdworker.engine.costs import ASSUMED_SECONDS, StepCosts
from sdworker.engine.networks import Networks

__all__ = ["CostLearner"]

log = logging.getLogger(__name__)

# More rows than any hardware of today gains from at the size a model was trained for.
_MOST_ROWS = 64
# Where there is always something to draw, the first part is due after so long, and each next one.
_FIRST_DUE_S = 20.0
_NEXT_DUE_S = 2.0


class CostLearner:
    """Owns the costs that the engine goes by: assumed ones until all is measured. For the engine's thread.

    Attributes:
        costs: to be read from any thread.
    """

    def __init__(self, networks: Networks, *, max_rows: int | None) -> None:
        """
        Args:
            max_rows: most rows in a forward. None: as many as are found to be worth it.
        """
        self.costs = StepCosts(ASSUMED_SECONDS, networks.default_shape, max_rows=max_rows)
        self._networks = networks
        self._max_rows = max_rows
        self._calibration: Calibration | None = None
        self._due_at = 0.0

    @property
    def has_more(self) -> bool:
        """Whether there is something left to measure."""
        return self._calibration is not None

    def begin(self) -> None:
        """From now on there is; `learn_more` does it."""
        self._calibration = Calibration(
            self._networks, largest=self._max_rows or _MOST_ROWS, only_worthwhile=self._max_rows is None
        )
        self._due_at = time.monotonic() + _FIRST_DUE_S

    def is_overdue(self) -> bool:
        """Whether to measure though there is something to draw, because there always has been."""
        return self.has_more and time.monotonic() > self._due_at

    def learn_all(self) -> None:
        """Measure everything now.

        Raises:
            Exception: whatever the networks raise.
        """
        self.begin()
        while self.has_more:
            self.learn_more()

    def learn_more(self) -> None:
        """Measure one number of rows, some tenths of a second; after the last, go by what was measured.

        Raises:
            Exception: whatever the networks raise; then nothing more is measured.
        """
        calibration, self._calibration = self._calibration, None
        if calibration is None:
            return
        calibration.measure_next()
        self._due_at = time.monotonic() + _NEXT_DUE_S
        if calibration.done:
            self._go_by(calibration)
        else:
            self._calibration = calibration

    def _go_by(self, calibration: Calibration) -> None:
        shape = self._networks.default_shape
        self.costs.learn(calibration.seconds)
        if calibration.out_of_memory:
            self.costs.remember_lack_of_memory(shape, max(calibration.seconds))
            self._networks.free_memory()
        seconds = calibration.seconds.items()
        log.info(
            "a step takes %s; at most %d rows share one",
            ", ".join(f"{1000 * of_rows:.3g} ms for {rows} rows" for rows, of_rows in seconds),
            self.costs.limit(shape),
        )
