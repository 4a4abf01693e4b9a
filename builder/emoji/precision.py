"""Number formats and layouts in which a processor trains fastest."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextModel


def amp(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Mixed precision where it is faster: CUDA, and processors that multiply bfloat16 themselves."""
    if device.type == "cuda" or multiplies_bfloat16():
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for it; emulated, bfloat16 is slower than fp32."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@contextlib.contextmanager
def suited(unet: UNet2DConditionModel, text_encoder: CLIPTextModel, device: torch.device) -> Iterator[None]:
    """Inside, the networks are laid out for training on `device`; what they compute is the same."""
    if device.type == "cuda" or not multiplies_bfloat16():
        yield
        return
    # The fused attention's backward pass takes a third of a bfloat16 training step on a CPU.
    unet.set_attn_processor(AttnProcessor())
    fused = text_encoder.config._attn_implementation
    text_encoder.set_attn_implementation("eager")
    unet.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        unet.to(memory_format=torch.contiguous_format)
        unet.set_default_attn_processor()
        text_encoder.set_attn_implementation(fused)
