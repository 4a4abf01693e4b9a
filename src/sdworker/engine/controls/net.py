"""A loaded ControlNet, diffusers' `ControlNetModel`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from sdworker.engine.costs import multiplications
from sdworker.engine.device import send

__all__ = ["ControlNet"]


class ControlNet:
    """A ControlNet on its device. On the engine's thread only, but for its description.

    The hint does not change from step to step, so what the net makes of it first (its embedding, of latent size)
    is made once a drawing, by `embed`.

    Attributes:
        name: as jobs call it.
        residuals: how many it gives: one for each of the UNet's skip connections, and one for its middle.
        pools: it says the same of every place (`global_pool_conditions`), and leads prompted rows only.
        bytes_: of its weights.
        multiplications: what a row's forward takes (`costs/arithmetic.py`).
    """

    def __init__(self, module: Any, name: str) -> None:
        """
        Args:
            module: a `ControlNetModel` in its precision; from now on this object's own.
        """
        self.name = name
        self.residuals = len(module.controlnet_down_blocks) + 1
        self.pools = bool(module.config.global_pool_conditions)
        self.bytes_ = sum(weight.numel() * weight.element_size() for weight in module.parameters())
        levels = len(module.config.block_out_channels)
        self.multiplications = multiplications(module.named_parameters(), levels)
        self._takes_added = module.config.addition_embed_type == "text_time"
        self._is_bgr = module.config.controlnet_conditioning_channel_order == "bgr"
        self._embedder = module.controlnet_cond_embedding
        module.controlnet_cond_embedding = nn.Identity()
        module.register_to_config(controlnet_conditioning_channel_order="rgb")
        self._module = module

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self._module.dtype
        return dtype

    @property
    def hint_channels(self) -> int:
        """Of an embedded hint."""
        return int(self._module.config.block_out_channels[0])

    def place(self, device: torch.device, *, channels_last: bool) -> None:
        """Bring it there."""
        for part in (self._embedder, self._module):
            part.to(device)
            if channels_last:
                part.to(memory_format=torch.channels_last)

    def embed(self, hint: np.ndarray) -> torch.Tensor:
        """The hint, uint8 [h, w, 3], as the net takes it in every step: [1, c, h/8, w/8]."""
        pixels = torch.from_numpy(np.array(hint)).permute(2, 0, 1)[None].float() / 255.0
        if self._is_bgr:
            pixels = pixels.flip(1)
        embedded: torch.Tensor = self._embedder(send(pixels, self._module.device).to(self.dtype))
        return embedded

    def __call__(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        text: torch.Tensor,
        added: Mapping[str, torch.Tensor],
        hints: torch.Tensor,
    ) -> Sequence[torch.Tensor]:
        """What it adds to the UNet at full strength: of each skip connection, then of the middle, [rows, c, h, w].

        Args:
            latents: [rows, 4, h, w] as the UNet gets them, without further channels.
            timesteps: [rows].
            text: [rows, tokens, d].
            added: what else the family's UNet is told; taken where the net was made for it.
            hints: embedded, [rows, c, h, w].
        """
        down, middle = self._module(
            latents,
            timesteps,
            encoder_hidden_states=text,
            controlnet_cond=hints,
            added_cond_kwargs=dict(added) if self._takes_added else None,
            return_dict=False,
        )
        return [*down, middle]
