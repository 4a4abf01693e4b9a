"""Larger pictures: drawn again at a larger size (`hires`), and enlarged once they are done (`upscale`).

docs/larger-pictures.md tells what jobs may ask for. The engine draws each pass as a drawing of its own; what joins
them, and what enlarges pictures, is here.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from PIL import Image

from sdworker.assets import AddOns, Kind
from sdworker.engine.controls import Control
from sdworker.engine.drawing import Drawing, Latents, Standing
from sdworker.engine.engine import Engine
from sdworker.engine.generation import OnStep
from sdworker.engine.networks.model import Model
from sdworker.engine.previews import Previews
from sdworker.engine.shelf import Shelf
from sdworker.engine.upscaling import Upscaler
from sdworker.request.declaration import Hires, Upscale

__all__ = ["SecondPass", "Upscalers", "draw_twice", "enlarge"]

Size = tuple[int, int]
"""Width and height in pixels."""

# By AUTOMATIC1111's names: torch's mode of interpolation, and whether what is shrunk is smoothed first.
_LATENT = {
    "latent": ("bilinear", False),
    "latent (antialiased)": ("bilinear", True),
    "latent (bicubic)": ("bicubic", False),
    "latent (bicubic antialiased)": ("bicubic", True),
    "latent (nearest)": ("nearest", False),
    "latent (nearest-exact)": ("nearest-exact", False),
}
_FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "none": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}
# So many times the size that is wanted, an upscaler's last run makes at most; the rest would be shrunk away.
_OVERSHOOT = 2
# Of upscalers that are kept, all together; the one used last always is.
_KEPT_BYTES = 256 * 2**20


class Upscalers:
    """Those of a deployment, by name. For one event loop."""

    def __init__(self, engine: Engine, addons: AddOns) -> None:
        self._addons = addons
        load = partial(Upscaler.load, device=engine.model.device)
        self._shelf: Shelf[Upscaler] = Shelf(load, most_bytes=_KEPT_BYTES)

    async def of(self, wanted: Hires | Upscale | None) -> Upscaler | None:
        """The one that a job names; None where it names none.

        Raises:
            UserError: there is none such, or it cannot be used.
        """
        match wanted:
            case Upscale(model=name):
                pass
            case Hires(upscaler=name) if name.casefold() not in _LATENT | _FILTERS:
                pass
            case _:
                return None
        file = await self._addons.find(Kind.UPSCALER, name)
        _, upscaler = await self._shelf.read(file, name=name)
        return upscaler


@dataclass(frozen=True)
class SecondPass:
    """What a job draws again.

    Attributes:
        hires: as the job has it.
        size: width and height.
        upscaler: the network that enlarges, where it names one.
        image: what the job starts from, uint8 [height, width, 3] of that size; needed where there is a mask.
        mask: where it is repainted, likewise: elsewhere the second pass starts from `image`, and keeps it.
        controls: what leads it, with hints of that size.
    """

    hires: Hires
    size: Size
    upscaler: Upscaler | None
    image: np.ndarray | None = None
    mask: np.ndarray | None = None
    controls: tuple[Control, ...] = ()

    def drawing(self, first: Drawing) -> Drawing:
        """What is drawn, but for what it starts from where it repaints."""
        width, height = self.size
        return replace(
            first,
            width=width,
            height=height,
            steps=self.hires.steps or first.steps,
            strength=self.hires.strength,
            image=None if self.mask is None else self.image,
            mask=self.mask,
            controls=self.controls,
        )

    def around(self, enlarged: np.ndarray) -> np.ndarray:
        """What the first pass drew, and around it the picture itself, which was never small; for any thread."""
        if self.mask is None or self.image is None:
            return enlarged
        return np.where(self.mask[:, :, None] >= 128, enlarged, self.image)


async def draw_twice(
    engine: Engine,
    first: Drawing,
    second_pass: SecondPass,
    on_step: OnStep | None = None,
    *,
    previews: Previews | None = None,
    model: Model | None = None,
) -> list[np.ndarray]:
    """The images of a second pass over what the first one drew.

    Whether both can be drawn is known before either is. Each image's second pass has a generator of its own,
    seeded like the first's, so it is what image to image draws of it with that seed.

    Raises:
        UserError: it could not be drawn.
    """
    second = second_pass.drawing(first)
    blank = np.broadcast_to(np.uint8(0), (second.height, second.width, 3))
    before = await engine.evaluations(first, model=model)
    after = await engine.evaluations(replace(second, image=blank), model=model)
    area = second.width * second.height / (first.width * first.height)
    standing = Standing(after=after, to_come=after * area)
    name = second_pass.hires.upscaler.casefold()
    if second_pass.upscaler is None and name in _LATENT:
        mode, antialias = _LATENT[name]
        values = await engine.draw_latents(first, on_step, previews=previews, model=model, standing=standing)
        second = replace(second, latents=Latents(values, mode, antialias))
    else:
        images = await engine.draw(first, on_step, previews=previews, model=model, standing=standing)
        if second_pass.upscaler is not None:
            larger = await enlarge(engine, images, second_pass.upscaler, second_pass.size)
        else:
            larger = await _resize_all(images, second_pass.size, _FILTERS[name])
        second = replace(second, image=np.stack([second_pass.around(one) for one in larger]))
    standing.before, standing.after, standing.to_come = before, 0, 0.0
    return await engine.draw(second, on_step, previews=previews, model=model, standing=standing)


async def enlarge(
    engine: Engine, images: Sequence[np.ndarray], upscaler: Upscaler, size: Size
) -> list[np.ndarray]:
    """Images, uint8 [h, w, 3] of one size, at another: by the upscaler, as often as it takes, the rest by Lanczos.

    Raises:
        UserError: they could not be enlarged.
    """
    images = list(images)
    while images[0].shape[1] < size[0] or images[0].shape[0] < size[1]:
        height, width = images[0].shape[:2]
        share = min(1.0, _OVERSHOOT * max(size[0] / width, size[1] / height) / upscaler.scale)
        if share < 1:
            less = max(1, round(width * share)), max(1, round(height * share))
            images = await _resize_all(images, less, Image.Resampling.LANCZOS)
        images = await engine.do([upscaler.chore(one) for one in images])
    return await _resize_all(images, size, Image.Resampling.LANCZOS)


async def _resize_all(
    images: Sequence[np.ndarray], size: Size, resample: Image.Resampling
) -> list[np.ndarray]:
    return await asyncio.gather(*(asyncio.to_thread(_resized, one, size, resample) for one in images))


def _resized(pixels: np.ndarray, size: Size, resample: Image.Resampling) -> np.ndarray:
    if pixels.shape[:2] == (size[1], size[0]):
        return pixels
    return np.array(Image.fromarray(pixels).resize(size, resample))
