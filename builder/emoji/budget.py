"""How long a training lasts, and where it stands: by steps, by minutes, or whichever ends first."""

import math
import time
from dataclasses import dataclass, field


@dataclass
class Budget:
    """Steps and seconds across runs. `steps` and `minutes` are the whole training's; None: no limit."""

    steps: int | None = None
    minutes: float | None = None
    done_steps: int = 0
    done_seconds: float = 0.0
    _started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise ValueError("a training needs a number of steps or of minutes")

    @property
    def seconds(self) -> float:
        """Seconds trained, earlier runs counted in."""
        return self.done_seconds + time.monotonic() - self._started

    @property
    def progress(self) -> float:
        """0 at the start, 1 at the end."""
        by_steps = self.done_steps / self.steps if self.steps else 0.0
        by_minutes = self.seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(by_steps, by_minutes))

    def rate(self, peak: float, warmup_steps: int = 100) -> float:
        """The learning rate now: a short linear rise, then a cosine down to a hundredth."""
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress))
        return peak * min(1.0, (self.done_steps + 1) / warmup_steps) * max(0.01, cosine)

    def start(self) -> None:
        """Count the seconds from now on: what was done before the first step is not training."""
        self._started = time.monotonic()

    def state(self) -> dict[str, float]:
        """For a checkpoint."""
        return {"done_steps": self.done_steps, "done_seconds": self.seconds}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from a checkpoint's state."""
        self.done_steps, self.done_seconds = int(state["done_steps"]), state["done_seconds"]
        self.start()
