"""What a step costs: seconds of one UNet forward, by rows and picture size; and how many rows one may have."""

from bisect import bisect_left
from collections.abc import Mapping
from functools import lru_cache

__all__ = ["ASSUMED_SECONDS", "Shape", "StepCosts", "worthwhile"]

Shape = tuple[int, int]
"""Latent height and width: rows of one shape can share a forward."""

# Until something is measured: hardware that a few rows fill. Only the ratios matter.
ASSUMED_SECONDS = {2: 0.02, 4: 0.03, 8: 0.05, 16: 0.09}

# Twice the rows are worth it as long as they bring at least so much more a second.
_WORTHWHILE_GAIN = 1.10


class StepCosts:
    """Seconds of a forward, from measurements at one shape; the most rows of a forward.

    Between two measured numbers of rows the time is linear, and beyond the last it grows as between the last two.
    Another shape is taken for as many rows of the measured one as have its area: what fills the hardware is rows
    times their size.
    """

    def __init__(self, measured: Mapping[int, float], shape: Shape, *, max_rows: int | None = None) -> None:
        """
        Args:
            measured: rows → seconds, at least one.
            shape: the shape they were measured at.
            max_rows: most rows in a forward of any shape. None: as far as more rows are worth it.
        """
        self._area = shape[0] * shape[1]
        self._max_rows = max_rows
        self._fitting: dict[Shape, int] = {}
        self.seconds = lru_cache(maxsize=1024)(self._seconds)
        """(rows, shape) → seconds of as many forwards as so many rows take."""
        self.learn(measured)

    def learn(self, measured: Mapping[int, float]) -> None:
        """Go by these measurements, at the same shape, from now on; what did not fit into memory stays known.

        Args:
            measured: rows → seconds, at least one.
        """
        if not measured:
            raise ValueError("nothing was measured")
        self._points = _rising(measured)
        self._worthwhile_rows = worthwhile(measured)
        self.seconds.cache_clear()

    def limit(self, shape: Shape) -> int:
        """Most rows of a shape in one forward; at least 2, a picture with guidance, unless memory forbids it."""
        rows = self._max_rows or max(2, int(self._worthwhile_rows * self._area / (shape[0] * shape[1])))
        return min(rows, self._fitting.get(shape, rows))

    def remember_lack_of_memory(self, shape: Shape, fitting: int) -> None:
        """From now on no more than `fitting` rows of a shape."""
        self._fitting[shape] = fitting
        self.seconds.cache_clear()

    def _seconds(self, rows: int, shape: Shape) -> float:
        full, rest = divmod(rows, self.limit(shape))
        scale = shape[0] * shape[1] / self._area
        return full * self._forward(self.limit(shape) * scale) + (
            self._forward(rest * scale) if rest else 0.0
        )

    def _forward(self, rows: float) -> float:
        """Seconds of one forward over so many rows of the measured shape."""
        points = self._points
        if rows <= points[0][0] or len(points) == 1:
            return points[0][1] * max(1.0, rows / points[0][0])
        place = min(bisect_left(points, (rows, 0.0)), len(points) - 1)
        (fewer, low), (more, high) = points[place - 1], points[place]
        return low + (high - low) * (rows - fewer) / (more - fewer)


def worthwhile(measured: Mapping[int, float]) -> int:
    """The rows of the largest batch that is worth it, each measured number being about twice the one before."""
    best, *larger = sorted(measured)
    for rows in larger:
        if rows / measured[rows] < _WORTHWHILE_GAIN * best / measured[best]:
            break
        best = rows
    return best


def _rising(measured: Mapping[int, float]) -> list[tuple[int, float]]:
    """The measurements in order of rows; a larger batch that seems quicker is noise and counts as equal."""
    points: list[tuple[int, float]] = []
    for rows in sorted(measured):
        points.append((rows, max(measured[rows], points[-1][1] if points else 0.0)))
    return points
