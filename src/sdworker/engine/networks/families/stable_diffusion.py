"""Stable Diffusion 1.x and 2.x, their 9-channel inpainting models, and latent consistency models of the kind."""

import math
from collections import OrderedDict
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from sdworker.engine.device import send
from sdworker.engine.drawing import Drawing
from sdworker.engine.model_config import ModelError
from sdworker.engine.model_files import ModelFolder
from sdworker.engine.networks.loading import load_network, naming, place
from sdworker.engine.networks.model import Loading, Model
from sdworker.engine.plan import Guidance, Plan
from sdworker.engine.text import Tokens, load_text_encoder, load_tokenizer
from sdworker.engine.unet_input import Conditioning, UNetInput

__all__ = ["StableDiffusion"]

_TEXT_CACHE = 64


class StableDiffusion(Model):
    """The UNet is told the last hidden state of one CLIP text encoder; an LCM's, the guidance scale too."""

    def __init__(self, *, tokenizer: Tokens, text_encoder: Any, **parts: Any) -> None:
        """
        Args:
            parts: as for `Model`.
        """
        super().__init__(**parts)
        self._tokenizer = tokenizer
        self._text_encoder = text_encoder
        self._tokens = int(text_encoder.positions)
        self._texts: OrderedDict[str, torch.Tensor] = OrderedDict()

    @classmethod
    def load(cls, checked: ModelFolder, loading: Loading) -> Self:
        folder = checked.path
        unet = load_network(checked, "unet", UNet2DConditionModel, loading)
        _check_unet(unet, folder)
        vae = load_network(checked, "vae", AutoencoderKL, loading)
        text_encoder = naming(
            folder / "text_encoder",
            lambda: load_text_encoder(
                folder / "text_encoder", dtype=loading.dtype, variant=checked.variants["text_encoder"]
            ),
        )
        text_encoder = place(folder / "text_encoder", text_encoder, loading)
        tokenizer = naming(
            folder / "tokenizer", lambda: load_tokenizer(folder / "tokenizer", text_encoder.positions)
        )
        return cls(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            unet=unet,
            vae=vae,
            scheduler_config=checked.scheduler_config,
            device=loading.device,
            dtype=loading.dtype,
            means=loading.means,
        )

    @property
    def embeds_guidance(self) -> bool:
        """The UNet is told the guidance scale instead of running twice (latent consistency models)."""
        return self._unet.config.time_cond_proj_dim is not None

    def plan(self, drawing: Drawing, evaluations: int) -> Plan:
        return Plan(
            guidance=Guidance(drawing.guidance, guided=drawing.guidance > 1 and not self.embeds_guidance),
            text_lengths=(self._tokens,),
            stages=(0,) * evaluations,
        )

    @torch.inference_mode()
    def condition(self, drawing: Drawing, plan: Plan) -> Generator[None, None, Sequence[Conditioning]]:
        prompted = self.encode_text(drawing.prompt)
        yield
        if not plan.guidance.guided:
            return (Conditioning(prompted, added=self._embedded(drawing.guidance)),)
        plain = self.encode_text(drawing.negative_prompt)
        yield
        return (Conditioning.cat([Conditioning(plain), Conditioning(prompted)]),)

    def example_conditioning(self) -> Conditioning:
        return Conditioning(self.encode_text(""), added=self._embedded(1.0))

    def forward(self, inputs: UNetInput) -> torch.Tensor:
        told = inputs.conditioning
        latents = inputs.latents
        if told.channels is not None:
            latents = torch.cat([latents, told.channels], dim=1)
        output: torch.Tensor = self._unet(
            latents,
            inputs.timesteps,
            encoder_hidden_states=told.text,
            timestep_cond=told.added.get("timestep_cond"),
            return_dict=False,
        )[0]
        return output

    @torch.inference_mode()
    def encode_text(self, prompt: str) -> torch.Tensor:
        """The prompt's embedding, [1, 77, d]; cut at 77 tokens, as diffusers' pipelines do.

        A few are kept, the empty one always: most jobs of a deployment share their negative prompt.
        """
        known = self._texts.get(prompt)
        if known is not None:
            self._texts.move_to_end(prompt)
            return known
        ids, mask = self._tokenizer(prompt)
        embedding = self._text_encoder(send(ids, self.device), send(mask, self.device)).to(self.dtype)
        self._texts[prompt] = embedding
        while len(self._texts) > _TEXT_CACHE:
            oldest = next(text for text in self._texts if text)
            del self._texts[oldest]
        return embedding

    def _embedded(self, guidance: float) -> dict[str, torch.Tensor]:
        """What a model that embeds the guidance scale is given of it."""
        if not self.embeds_guidance:
            return {}
        scale = torch.full((1,), guidance - 1.0, device=self.device)
        return {"timestep_cond": _embed_guidance(scale, self._unet.config.time_cond_proj_dim).to(self.dtype)}


def _check_unet(unet: Any, folder: Path) -> None:
    config = unet.config
    if config.in_channels not in (4, 9):
        raise ModelError(
            f"{folder / 'unet'} takes {config.in_channels} input channels; "
            "4 (text to image) and 9 (inpainting) are served"
        )
    if config.addition_embed_type is not None or config.class_embed_type is not None:
        raise ModelError(
            f"{folder / 'unet'} needs more than a prompt; Stable Diffusion 1.x and 2.x are served"
        )


def _embed_guidance(scale: torch.Tensor, dimension: int) -> torch.Tensor:
    """Sinusoidal embedding of the guidance scale, [rows, dimension].

    Source: https://github.com/google-research/vdm/blob/dc27b98a554f65cdc654b800da5aa1846545d41b/model_vdm.py#L298,
    as diffusers' `get_guidance_scale_embedding` has it.
    """
    half = dimension // 2
    frequencies = torch.exp(
        torch.arange(half, dtype=torch.float32, device=scale.device) * -(math.log(10000.0) / (half - 1))
    )
    angles = (scale.float() * 1000.0)[:, None] * frequencies[None, :]
    embedding = torch.cat([angles.sin(), angles.cos()], dim=1)
    return torch.nn.functional.pad(embedding, (0, dimension % 2))
