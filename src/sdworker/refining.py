"""Drawings that a refiner finishes: the model's own share of the noise schedule, and the refiner's behind it.

As diffusers' "ensemble of expert denoisers": `denoising_end` of the model's call is `denoising_start` of the
refiner's, and each counts its own steps over the whole schedule. What goes over are latents with noise in them.
LoRAs, embeddings and ControlNets are for the model alone.
"""

from dataclasses import dataclass, replace

import numpy as np

from sdworker.engine.drawing import Drawing, Latents, Standing
from sdworker.engine.engine import Engine
from sdworker.engine.generation import OnStep
from sdworker.engine.networks.model import Model
from sdworker.engine.previews import Previews

__all__ = ["Unfinished", "begin", "refiner_name"]


def refiner_name(model: str | None) -> str:
    """What a model's refiner is called among those that are loaded; no job can name it."""
    return f"{model or ''} / refiner"


@dataclass(frozen=True)
class Unfinished:
    """What a model left to its refiner.

    Attributes:
        drawing: the rest, and what it goes on from.
        standing: of its job.
    """

    drawing: Drawing
    standing: Standing

    async def finish(
        self, engine: Engine, on_step: OnStep | None, *, previews: Previews | None, model: Model
    ) -> list[np.ndarray]:
        """The images.

        Args:
            model: the refiner.

        Raises:
            UserError: they could not be drawn.
        """
        return await engine.draw(
            self.drawing, on_step, previews=previews, model=model, standing=self.standing
        )


async def begin(
    engine: Engine,
    drawing: Drawing,
    share: float,
    steps: int,
    on_step: OnStep | None,
    *,
    previews: Previews | None,
    model: Model,
) -> Unfinished:
    """Draw a model's share.

    Args:
        share: of the noise schedule.
        steps: of the refiner, were it to draw all of it.

    Raises:
        UserError: it could not be drawn.
    """
    first = replace(drawing, span=(0.0, share))
    before = await engine.evaluations(first, model=model)
    after = max(1, round(steps * (1 - share)))  # about: its sampler's table says, once it is there
    standing = Standing(after=after, to_come=after)
    values = await engine.draw_latents(first, on_step, previews=previews, model=model, standing=standing)
    rest = replace(
        drawing,
        span=(share, 1.0),
        steps=steps,
        latents=Latents(values),
        loras=(),
        embeddings=(),
        controls=(),
    )
    standing.before, standing.after, standing.to_come = before, 0, 0.0
    return Unfinished(rest, standing)
