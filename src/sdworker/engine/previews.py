"""What a drawing would look like if it ended now: small pictures on the way, made without the VAE.

The UNet is told noisy latents x = √ᾱ · clean + √(1-ᾱ) · noise, whatever the sampler: each scales its own latents
so before the UNet sees them. So what it was told last and what it answered give the clean latents that it believes
in, by the timestep alone. Their channels become colours by a linear map, fitted once a model: the latents that its
VAE makes of some pictures, patches of colour on white, against those pictures in the same size.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import DDPMScheduler

from sdworker.engine.device import Mark, fetch, mark, send
from sdworker.engine.networks.autoencoder import Autoencoder

__all__ = ["ComingPreview", "Previewer", "Previews"]

_PICTURES, _SIDE = 4, 128


class ComingPreview:
    """A preview on its way from the device."""

    def __init__(self, pixels: torch.Tensor, arrived: Mark) -> None:
        self._pixels = pixels
        self._arrived = arrived

    def pixels(self) -> np.ndarray:
        """uint8 [latent height, latent width, 3], once it is here; in any thread."""
        self._arrived.synchronize()
        pixels: np.ndarray = self._pixels.numpy()
        return pixels


class Previews(Protocol):
    """Whoever wants to see a drawing on its way. Asked on the engine's thread, which must not wait."""

    def wanted(self) -> bool:
        """Whether a preview would be looked at now."""

    def show(self, preview: ComingPreview, evaluation: int, evaluations: int) -> None:
        """One that was wanted, after so many evaluations."""


class Previewer:
    """Makes previews of one model's drawings. On the engine's thread only."""

    def __init__(self, autoencoder: Autoencoder, scheduler_config: Mapping[str, Any]) -> None:
        self._map, self._black = _fit(autoencoder)
        scheduler = DDPMScheduler.from_config(dict(scheduler_config))
        self._signal: list[float] = scheduler.alphas_cumprod.tolist()
        self._predicts: str = scheduler.config.prediction_type

    def clean(self, told: torch.Tensor, answer: torch.Tensor, timestep: float) -> torch.Tensor:
        """The clean latents that the UNet believes in.

        Args:
            told, answer: the UNet's input and output, [1, 4, h, w].
        """
        signal = self._signal[min(max(round(timestep), 0), len(self._signal) - 1)]
        alpha, sigma = max(signal, 1e-6) ** 0.5, (1 - signal) ** 0.5
        if self._predicts == "sample":
            return answer
        if self._predicts == "v_prediction":
            return alpha * told - sigma * answer
        return (told - sigma * answer) / alpha

    def picture(self, latents: torch.Tensor) -> ComingPreview:
        """Clean latents [1, 4, h, w] as colours, one pixel a latent."""
        colours = torch.einsum("chw,cd->hwd", latents[0], self._map) + self._black
        pixels = fetch(colours.clamp(0, 1).mul(255).round().to(torch.uint8))
        return ComingPreview(pixels, mark(latents.device))


def _fit(autoencoder: Autoencoder) -> tuple[torch.Tensor, torch.Tensor]:
    """The map [4, 3] and the offset [3] that are nearest, in the mean of squares, to what the VAE does."""
    scale = autoencoder.pixels_per_latent
    dice = torch.Generator("cpu").manual_seed(0)
    latents, colours = [], []
    for number in range(_PICTURES):
        cells = 2 * 2**number  # from large patches to small ones
        colour, where = ((torch.rand(1, n, cells, cells, generator=dice) > 0.5).float() for n in (3, 1))
        picture = torch.nn.functional.interpolate(colour * where + (1 - where), (_SIDE, _SIDE))
        latents.append(autoencoder.encode(picture * 2 - 1).mean[0].flatten(1).T)
        colours.append(torch.nn.functional.avg_pool2d(picture, scale)[0].flatten(1).T)
    known = torch.cat(latents).float().cpu()
    known = torch.cat([known, torch.ones(len(known), 1)], dim=1)
    # The normal equations, a little damped: a VAE of fewer channels in use must not make them blow up.
    damped = known.T @ known + 1e-4 * len(known) * torch.eye(known.shape[1])
    solved = send(torch.linalg.solve(damped, known.T @ torch.cat(colours)), latents[0].device)
    return solved[:-1], solved[-1]
