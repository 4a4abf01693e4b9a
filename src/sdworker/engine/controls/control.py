"""One ControlNet's part in a drawing."""

from dataclasses import dataclass

import numpy as np

from sdworker.engine.controls.net import ControlNet

__all__ = ["Control"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Control:
    """A net, what it is shown, how much it counts, and when.

    Attributes:
        net: loaded, and kept so until the drawing is done.
        hint: uint8 [height, width, 3], of the drawing's own size.
        scale: what the net says is multiplied by that.
        start, end: the part of the evaluations in which it counts, as diffusers counts: evaluation i of n is left
            out where i / n < start or (i + 1) / n > end.
        guess_mode: only the rows with a prompt are led, the deepest layers most, as diffusers' guess mode does it.
    """

    net: ControlNet
    hint: np.ndarray
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    guess_mode: bool = False

    def counts_at(self, evaluation: int, evaluations: int) -> bool:
        """Whether it has a say in an evaluation of so many."""
        if self.scale == 0:
            return False
        return not (evaluation / evaluations < self.start or (evaluation + 1) / evaluations > self.end)

    def strengths(self) -> tuple[float, ...]:
        """What each of the net's residuals is multiplied by, those of the shallow layers first."""
        layers = self.net.residuals
        if self.guess_mode and not self.net.pools:
            # logspace(-1, 0): a tenth of the first, all of the last.
            return tuple(self.scale * 10 ** (layer / (layers - 1) - 1) for layer in range(layers))
        return (self.scale,) * layers

    @property
    def only_prompted(self) -> bool:
        """Rows without a prompt are not led."""
        return self.guess_mode or self.net.pools
