"""Pictures to latents, as a distribution, and back, as images on their way from the device.

Small pictures are done at once; larger ones strip by strip (`strips.py`), which takes less memory and holds up
nobody for long.
"""

from collections.abc import Generator, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from sdworker.engine.device import Mark, fetch, mark, send
from sdworker.engine.networks import strips
from sdworker.model_place import pixels_per_latent

__all__ = ["Autoencoder", "ComingImage", "NotFinite", "Posterior"]

T = TypeVar("T")

# Up to so many pixels a picture is done at once: about 0.1 s on a core, 0.05 s and 0.6 GB on a 24 GB card.
_AT_ONCE = {"cpu": 192 * 192, "cuda": 640 * 640}
# Multiplications of a strip: some 0.02 s of a core, 0.01 s of such a card.
_BUDGET = {"cpu": 10**9, "cuda": 2 * 10**11}
# A picture for which memory did not suffice is done as before with what could be freed; then in strips, and
# strips so many times thinner.
_THINNER = 8


class NotFinite(ArithmeticError):
    """A network gave NaN or infinity."""


class Posterior:
    """What the VAE's encoder says of a picture: a Gaussian over latents, [1, channels, h/s, w/s].

    Every image of a request draws its own sample from it with its own generator, as diffusers does.
    """

    def __init__(self, mean: torch.Tensor, std: torch.Tensor, scale: float) -> None:
        self._mean = mean
        self._std = std
        self._scale = scale

    def sample(self, generator: torch.Generator) -> torch.Tensor:
        """One sample, [1, channels, h/s, w/s] in float32, scaled as the UNet expects."""
        noise = torch.randn(self._mean.shape, generator=generator, dtype=torch.float32)
        return self._scale * (self._mean + self._std * send(noise, self._mean.device))

    @property
    def mean(self) -> torch.Tensor:
        """The likeliest latents, scaled; needs no generator."""
        return self._scale * self._mean


class ComingImage:
    """A decoded image on its way from the device; what is queued behind it does not wait for it."""

    def __init__(self, pixels: torch.Tensor, finite: torch.Tensor, arrived: Mark) -> None:
        """
        Args:
            pixels: uint8 [h, w, 3] on the CPU, complete when `arrived` has passed.
            finite: [2] likewise: whether the latents were, and whether the decoded picture was.
        """
        self._pixels = pixels
        self._finite = finite
        self._arrived = arrived

    def is_here(self) -> bool:
        """Whether `pixels` would not wait."""
        return self._arrived.query()

    def pixels(self) -> np.ndarray:
        """uint8 [h, w, 3], once it is here.

        Raises:
            NotFinite: the latents or the decoded picture hold NaN or infinity.
        """
        self._arrived.synchronize()
        latents, picture = self._finite.tolist()
        if not latents:
            raise NotFinite("the latents are not finite")
        if not picture:
            raise NotFinite("the decoded picture is not finite")
        image: np.ndarray = self._pixels.numpy()
        return image

    def get(self) -> np.ndarray:
        """The same, as of whatever is on its way."""
        return self.pixels()


class Autoencoder:
    """diffusers' `AutoencoderKL`, to and from what the UNet works on."""

    def __init__(self, vae: Any, *, device: torch.device, dtype: torch.dtype) -> None:
        self._vae = vae
        self._device = device
        self._dtype = dtype

    @property
    def config(self) -> Mapping[str, Any]:
        """The contents of its `config.json`."""
        config: Mapping[str, Any] = self._vae.config
        return config

    @property
    def pixels_per_latent(self) -> int:
        """Pixels along one side of a latent; 8 for Stable Diffusion."""
        return pixels_per_latent(self._vae.config)

    @property
    def latent_channels(self) -> int:
        return int(self._vae.config.latent_channels)

    def is_large(self, height: int, width: int) -> bool:
        """Whether a picture of so many pixels is done strip by strip."""
        at_once = _AT_ONCE.get(self._device.type, _AT_ONCE["cpu"])
        return height * width > at_once and strips.can_be_cut(self._vae)

    def encode(self, pixels: torch.Tensor) -> Posterior:
        """The distribution of a picture's latents.

        Args:
            pixels: [1, 3, h, w] in -1 … 1.
        """
        return _at_once(self.encode_in_pieces(pixels))

    @torch.inference_mode()
    def encode_in_pieces(self, pixels: torch.Tensor) -> Generator[None, None, Posterior]:
        """The same, one piece of bounded time for each item taken."""
        given = send(pixels, self._device).to(self._dtype)
        if self.is_large(*pixels.shape[2:]):
            moments = yield from strips.encode(self._vae, given, self._budget(0))
            latents = DiagonalGaussianDistribution(moments)
        else:
            latents = self._vae.encode(given).latent_dist
        return Posterior(latents.mean.float(), latents.std.float(), self._vae.config.scaling_factor)

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> ComingImage:
        """One image from its finished latents [1, 4, h/s, w/s], at once."""
        return self._coming(latents, self._vae.decode(self._scaled(latents), return_dict=False)[0])

    @torch.inference_mode()
    def decode_in_pieces(
        self, latents: torch.Tensor, shortages: int = 0
    ) -> Generator[None, None, ComingImage]:
        """The same, one piece of bounded time for each item taken.

        Args:
            shortages: how often memory did not suffice for it; it makes do with less and less.
        """
        height, width = (side * self.pixels_per_latent for side in latents.shape[2:])
        cut = self.is_large(height, width) or (shortages > 1 and strips.can_be_cut(self._vae))
        if not cut:
            return self.decode(latents)
        pixels = yield from strips.decode(self._vae, self._scaled(latents), self._budget(shortages))
        return self._coming(latents, pixels)

    def _budget(self, shortages: int) -> int:
        budget = _BUDGET.get(self._device.type, _BUDGET["cpu"])
        return budget // _THINNER ** max(0, shortages - 1)

    def _scaled(self, latents: torch.Tensor) -> torch.Tensor:
        return (latents / self._vae.config.scaling_factor).to(self._dtype)

    def _coming(self, latents: torch.Tensor, decoded: torch.Tensor) -> ComingImage:
        pixels = decoded.float()
        finite = torch.stack([latents.isfinite().all(), pixels.isfinite().all()])
        bytes_ = (pixels / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
        return ComingImage(fetch(bytes_[0].permute(1, 2, 0).contiguous()), fetch(finite), mark(self._device))


def _at_once(pieces: Generator[None, None, T]) -> T:
    """What comes of all pieces."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            result: T = end.value
            return result
