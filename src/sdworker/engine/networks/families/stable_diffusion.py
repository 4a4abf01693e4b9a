"""Stable Diffusion 1.x and 2.x, their 9-channel inpainting models, and latent consistency models of the kind."""

import math
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from sdworker.engine.controls.rows import unet_arguments
from sdworker.engine.drawing import Drawing
from sdworker.engine.lora import NO_LORAS, Held
from sdworker.engine.model_config import ModelError
from sdworker.engine.model_files import ModelFolder
from sdworker.engine.networks.loading import load_network, load_text
from sdworker.engine.networks.model import Loading, Model
from sdworker.engine.plan import Guidance, Plan, length_together
from sdworker.engine.tables import steps_taken
from sdworker.engine.text.encoder import PromptEncoder
from sdworker.engine.text.errors import PromptError
from sdworker.engine.text.prompt import Text, plan_negative_prompt, plan_prompt, read_text
from sdworker.engine.text.tokens import ClipTokenizer
from sdworker.engine.unet_input import Conditioning, UNetInput
from sdworker.reading import Reading
from sdworker.samplers import PAIRS

__all__ = ["StableDiffusion", "check_channels"]


class StableDiffusion(Model):
    """The UNet is told the last hidden state of one CLIP text encoder; an LCM's, the guidance scale too."""

    _encoder = "text_encoder"  # the folder of the one that every family has

    def __init__(
        self,
        *,
        tokenizer: ClipTokenizer,
        text_encoder: Any,
        more_text_encoders: Mapping[str, Any] = MappingProxyType({}),
        **parts: Any,
    ) -> None:
        """
        Args:
            more_text_encoders: of a family that has others beside it, by the names of their folders.
            parts: as for `Model`.
        """
        super().__init__(text_encoders={self._encoder: text_encoder, **more_text_encoders}, **parts)
        self._tokenizer = tokenizer
        self._prompts = PromptEncoder(text_encoder, device=self.device, dtype=self.dtype)

    @classmethod
    def load(cls, checked: ModelFolder, loading: Loading) -> Self:
        return cls(**cls._load_parts(checked, loading))

    @classmethod
    def _load_parts(cls, checked: ModelFolder, loading: Loading) -> dict[str, Any]:
        """What it is made of, by the names that `__init__` has for it.

        Raises:
            ModelError: as `load`.
        """
        unet = load_network(checked, "unet", UNet2DConditionModel, loading)
        cls._check_unet(unet, checked.path)
        dtype = cls.vae_dtype(checked, loading.dtype)
        vae = load_network(checked, "vae", AutoencoderKL, loading, dtype=dtype, may_share=True)
        projects = cls._encoder == "text_encoder_2"
        text_encoder, tokenizer = load_text(checked, cls._encoder, loading, projects=projects)
        return {
            "tokenizer": tokenizer,
            "text_encoder": text_encoder,
            "unet": unet,
            "vae": vae,
            "scheduler_config": checked.scheduler_config,
            "device": loading.device,
            "dtype": loading.dtype,
            "lora_bytes": loading.lora_bytes,
            "means": loading.means,
        }

    @classmethod
    def _check_unet(cls, unet: Any, folder: Path) -> None:
        """Raises: ModelError: it takes something else than what it would be told."""
        check_channels(unet, folder)
        config = unet.config
        if config.addition_embed_type is not None or config.class_embed_type is not None:
            raise ModelError(
                f"{folder / 'unet'} needs more than a prompt; Stable Diffusion 1.x and 2.x are served"
            )

    @property
    def embeds_guidance(self) -> bool:
        """The UNet is told the guidance scale instead of running twice (latent consistency models)."""
        return self._unet.config.time_cond_proj_dim is not None

    def plan(self, drawing: Drawing, evaluations: int) -> Plan:
        reading, words = drawing.reading, self._tokenizer
        if reading.clip_skip > self._most_skipped:
            raise PromptError(
                f"clip_skip: {reading.clip_skip} is not allowed; allowed with this model: a whole number from 0 "
                f"to {self._most_skipped}"
            )
        taken = steps_taken(drawing.steps, drawing.strength if drawing.starts_from_a_picture else None)
        counted = max(1, taken * PAIRS[drawing.sampler].order)
        reads: dict[str, Any] = {
            "evaluations": counted,
            "reading": reading,
            "embeddings": {one.name: one.vectors.count for one in drawing.embeddings},
        }
        parts = plan_prompt(drawing.prompt, words, **reads)
        guidance = self._guidance(drawing, tuple(part.weight for part in parts))
        rows = list(parts)
        if guidance.guided:
            negative = drawing.negative_prompt
            rows.insert(0, plan_negative_prompt(negative, words, **reads))
        # What goes on from another's latents goes on in its prompt too.
        before = max(0, counted - evaluations) if drawing.span[0] > 0 else 0
        said = [tuple(part.at(before + i) for part in rows) for i in range(evaluations)]
        texts = tuple(dict.fromkeys(said))
        numbers = {told: number for number, told in enumerate(texts)}
        lengths = tuple(length_together(told) for told in texts)
        return Plan(
            guidance=guidance,
            text_lengths=lengths,
            stages=tuple(numbers[told] for told in said),
            texts=texts,
            memory_bytes=sum(lengths) * len(rows) * self._text_width * self.dtype.itemsize,
        )

    @property
    def _most_skipped(self) -> int:
        """Layers of its text encoders that a drawing may leave out."""
        return self._prompts.layers - 1

    @property
    def _text_width(self) -> int:
        """Of a token, as the UNet is told of it."""
        return self._prompts.width

    def _guidance(self, drawing: Drawing, weights: tuple[float, ...]) -> Guidance:
        """One prompt alone needs no row beside it where the scale is 1, several always do."""
        scale = 1.0 if self.embeds_guidance else max(1.0, drawing.guidance)
        if len(weights) == 1:
            return Guidance(drawing.guidance, guided=scale > 1)
        return Guidance(scale, weights)

    @torch.inference_mode()
    def condition(
        self, drawing: Drawing, plan: Plan, held: Held = NO_LORAS
    ) -> Generator[None, None, Sequence[Conditioning]]:
        conditionings = []
        for texts in plan.texts:
            rows = []
            for number, text in enumerate(texts):
                is_negative = plan.guidance.guided and number == 0
                rows.append((yield from self._tell(text, drawing, held, is_negative=is_negative)))
            conditionings.append(Conditioning.cat(rows))
        return conditionings

    def _tell(
        self, text: Text, drawing: Drawing, held: Held, *, is_negative: bool
    ) -> Generator[None, None, Conditioning]:
        """What the UNet is told in one row, a chunk for each item taken."""
        del is_negative
        applied = held.applied("text_encoder", drawing.embeddings)
        embedded = yield from self._prompts.encode_in_pieces(text, applied)
        return Conditioning(embedded, added=self._embedded(drawing.guidance))

    def example_conditioning(self) -> Conditioning:
        return Conditioning(self.encode_text(""), added=self._embedded(1.0))

    def encode_text(self, prompt: str) -> torch.Tensor:
        """The embedding of a prompt without syntax, [1, 77k, d]."""
        return self._prompts.encode(self._read_plainly(prompt))

    def _read_plainly(self, prompt: str) -> Text:
        return read_text(prompt, self._tokenizer, Reading(syntax="plain"))

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
            added_cond_kwargs=self._added_conditions(told),
            return_dict=False,
            **unet_arguments(told),
        )[0]
        return output

    def _added_conditions(self, told: Conditioning) -> dict[str, torch.Tensor] | None:
        """What diffusers' UNet takes as `added_cond_kwargs`."""
        del told
        return None

    def _embedded(self, guidance: float) -> dict[str, torch.Tensor]:
        """What a model that embeds the guidance scale is given of it."""
        if not self.embeds_guidance:
            return {}
        scale = torch.full((1,), guidance - 1.0, device=self.device)
        return {"timestep_cond": _embed_guidance(scale, self._unet.config.time_cond_proj_dim).to(self.dtype)}


def check_channels(unet: Any, folder: Path) -> None:
    """The UNet takes latents, and beside them nothing or what inpainting needs.

    Raises:
        ModelError: it takes something else.
    """
    channels = unet.config.in_channels
    if channels not in (4, 9):
        raise ModelError(
            f"{folder / 'unet'} takes {channels} input channels; "
            "4 (text to image) and 9 (inpainting) are served"
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
