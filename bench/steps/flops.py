"""How much arithmetic a UNet's forward is."""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["flops_per_row"]


def flops_per_row(model: Path, latent_width: int, latent_height: int) -> int:
    """Floating-point operations of a forward over one row; a multiplication and its addition are two.

    Counted from the model's configuration on the meta device, where nothing is computed. Convolutions, linear
    layers and attention's products count, as is usual; normalisation and activations do not.
    """
    config = UNet2DConditionModel.load_config(model / "unet")
    with torch.device("meta"), torch.inference_mode():
        unet = UNet2DConditionModel.from_config(config)
        latents = torch.empty(1, unet.config.in_channels, latent_height, latent_width)
        text = torch.empty(1, 77, unet.config.cross_attention_dim)
        with FlopCounterMode(display=False) as counter:
            unet(latents, torch.empty(1), encoder_hidden_states=text, return_dict=False)
    return counter.get_total_flops()
