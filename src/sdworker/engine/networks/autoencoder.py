"""Pictures to latents, as a distribution, and back, as images on their way from the device."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from sdworker.engine.device import Mark, fetch, mark, send
from sdworker.model_place import pixels_per_latent

__all__ = ["Autoencoder", "ComingImage", "NotFinite", "Posterior"]


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

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> Posterior:
        """The distribution of a picture's latents.

        Args:
            pixels: [1, 3, h, w] in -1 … 1.
        """
        latents = self._vae.encode(send(pixels, self._device).to(self._dtype)).latent_dist
        return Posterior(latents.mean.float(), latents.std.float(), self._vae.config.scaling_factor)

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> ComingImage:
        """One image from its finished latents [1, 4, h/s, w/s]."""
        scaled = (latents / self._vae.config.scaling_factor).to(self._dtype)
        pixels = self._vae.decode(scaled, return_dict=False)[0].float()
        finite = torch.stack([latents.isfinite().all(), pixels.isfinite().all()])
        bytes_ = (pixels / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
        return ComingImage(fetch(bytes_[0].permute(1, 2, 0).contiguous()), fetch(finite), mark(self._device))
