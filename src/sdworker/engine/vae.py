"""What the VAE gives: the distribution of a picture's latents, and an image on its way from the device."""

import numpy as np
import torch

from sdworker.engine.device import Mark, send

__all__ = ["ComingImage", "NotFinite", "Posterior"]


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
