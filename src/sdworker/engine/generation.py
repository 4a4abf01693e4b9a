"""One request's live state in the engine: its history, texts, sampler table and generators.

What is drawn from the generators, and in which order, is diffusers' own: `StableDiffusionPipeline`,
`StableDiffusionImg2ImgPipeline` and `StableDiffusionInpaintPipeline`, called for one image with one generator
seeded with that image's seed. So image i of a request is what diffusers draws for `seed + i`.
"""

from dataclasses import dataclass

import numpy as np
import torch

from sdworker.engine.device import send
from sdworker.engine.drawing import Drawing
from sdworker.engine.networks import Networks
from sdworker.engine.tables import SamplerTables, Table, first_step

__all__ = ["Generation", "Rows", "table_for"]


@dataclass(frozen=True)
class Rows:
    """A generation's part of a UNet batch; `rows` is images, twice with guidance.

    Attributes:
        latents: [rows, 4 or 9, h, w]; unguided rows first, then guided.
        timesteps: [rows].
        text: [rows, 77, d].
        guidance: [rows] for models that embed it, else None.
    """

    latents: torch.Tensor
    timesteps: torch.Tensor
    text: torch.Tensor
    guidance: torch.Tensor | None


def table_for(drawing: Drawing, tables: SamplerTables, *, inpaints_natively: bool) -> Table:
    """The sampler table a drawing runs on.

    Raises:
        TableError: the sampler cannot do it.
    """
    masked = drawing.mask is not None
    return tables.get(
        drawing.sampler,
        drawing.steps,
        first=None if drawing.image is None else first_step(drawing.steps, drawing.strength),
        # As diffusers has it: inpainting at full strength forgets the picture, image to image never does.
        noise_only=drawing.image is None or (masked and drawing.strength == 1.0),
        masked=masked and not inpaints_natively,
    )


class Generation:
    """The state of one drawing between its first and its last step. Lives on the engine's thread."""

    def __init__(self, drawing: Drawing, networks: Networks, tables: SamplerTables) -> None:
        """Encode what it needs and draw its start latents.

        Raises:
            TableError: the sampler cannot do it.
        """
        self.drawing = drawing
        self.evaluation = 0
        self.table = table_for(drawing, tables, inpaints_natively=networks.inpaints_natively)
        self._device = networks.device
        self._generators = [torch.Generator("cpu").manual_seed(seed) for seed in drawing.seeds]
        scale = networks.pixels_per_latent
        self._latent_shape = (1, networks.latent_channels, drawing.height // scale, drawing.width // scale)
        self._guided = drawing.guidance > 1 and not networks.embeds_guidance
        self._text = self._encode_texts(networks)
        self._embedded_guidance = (
            torch.full((self.rows,), drawing.guidance, device=self._device)
            if networks.embeds_guidance
            else None
        )
        self._history = torch.empty(
            (self.table.columns, len(drawing.seeds), *self._latent_shape[1:]),
            device=self._device,
            dtype=torch.float32,
        )
        self._start(networks)

    @property
    def rows(self) -> int:
        """Rows it brings to a UNet batch."""
        return len(self.drawing.seeds) * (2 if self._guided else 1)

    @property
    def shape(self) -> tuple[int, int]:
        """Generations of one latent height and width can share a step."""
        return self._latent_shape[2], self._latent_shape[3]

    @property
    def finished(self) -> bool:
        return self.evaluation == self.table.evaluations

    def next_rows(self) -> Rows:
        """What the UNet must see for the next evaluation."""
        i = self.evaluation
        latents = self._combine(self.table.inputs[i], self.table.known[i])
        if self._guided:
            latents = torch.cat([latents, latents])
        if self._extra is not None:
            latents = torch.cat([latents, self._extra], dim=1)
        timesteps = torch.full((self.rows,), self.table.timesteps[i], device=self._device)
        return Rows(latents, timesteps, self._text, self._embedded_guidance)

    def take(self, predicted: torch.Tensor) -> None:
        """Put the UNet's answer into the history and go on to the next evaluation.

        Args:
            predicted: [rows, 4, h, w] in float32.
        """
        i, table = self.evaluation, self.table
        if self._guided:
            plain, prompted = predicted.chunk(2)
            predicted = plain + self.drawing.guidance * (prompted - plain)
        self._history[table.output_columns[i]] = predicted
        if table.draws[i]:
            noise = self._draw_noise()
            column = table.noise_columns[i]
            if column is not None:
                self._history[column] = noise
        if table.blend is not None and self._kept is not None:
            column = table.blend.columns[i]
            latents = self._combine(table.blend.latents[i], column)
            original = self._kept.as_noisy_as(table.blend.image[i], table.blend.noise[i])
            self._history[column] = (1 - self._kept.mask) * (original - latents)
        self.evaluation += 1

    def outcome(self) -> torch.Tensor:
        """The finished latents, [images, 4, h, w] in float32."""
        return self._combine(self.table.outcome, self.table.columns)

    def _combine(self, coefficients: torch.Tensor, known: int) -> torch.Tensor:
        """The weighted sum of the first `known` columns of the history, [images, 4, h, w]."""
        history = self._history[:known]
        return (coefficients[:known] @ history.view(known, -1)).view(history.shape[1:])

    def _draw_noise(self) -> torch.Tensor:
        draws = [torch.randn(self._latent_shape, generator=generator) for generator in self._generators]
        return send(torch.cat(draws), self._device)

    def _encode_texts(self, networks: Networks) -> torch.Tensor:
        images = len(self.drawing.seeds)
        prompted = networks.encode_text(self.drawing.prompt).expand(images, -1, -1)
        if not self._guided:
            return prompted
        plain = networks.encode_text(self.drawing.negative_prompt).expand(images, -1, -1)
        return torch.cat([plain, prompted])

    def _start(self, networks: Networks) -> None:
        """Draw what diffusers' pipelines draw before their loop, in their order."""
        drawing, table = self.drawing, self.table
        pixels = None if drawing.image is None else _to_tensor(drawing.image)
        image = None
        if pixels is not None and (table.start_image != 0 or table.blend is not None):
            image = self._encode_image(networks, pixels)
        noise = self._draw_noise()
        self._history[0] = table.start_noise * noise
        if image is not None:
            self._history[0] += table.start_image * image
        mask = masked_image = None
        if pixels is not None and drawing.mask is not None:
            repainted = torch.from_numpy(drawing.mask >= 128)[None, None]
            mask = send(torch.nn.functional.interpolate(repainted.float(), size=self.shape), self._device)
            # diffusers encodes the masked picture for every UNet, and so advances the generators.
            masked_image = self._encode_image(networks, pixels * ~repainted)
        self._kept = _Kept(image, noise, mask) if image is not None and mask is not None else None
        self._extra = self._native_mask(networks, mask, masked_image) if networks.inpaints_natively else None

    def _encode_image(self, networks: Networks, pixels: torch.Tensor) -> torch.Tensor:
        """A picture's latents, [images, 4, h, w], each sampled with its image's own generator."""
        posterior = networks.encode_image(pixels)
        return torch.cat([posterior.sample(generator) for generator in self._generators])

    def _native_mask(
        self, networks: Networks, mask: torch.Tensor | None, masked_image: torch.Tensor | None
    ) -> torch.Tensor:
        """The five extra channels of an inpainting UNet, [rows, 5, h, w]; without a mask all is repainted."""
        images = len(self.drawing.seeds)
        if mask is None or masked_image is None:
            mask = torch.ones(1, 1, *self.shape, device=self._device)
            blank = torch.zeros(1, 3, self.drawing.height, self.drawing.width)
            masked_image = networks.encode_image(blank).mean.expand(images, -1, -1, -1)
        extra = torch.cat([mask.expand(images, -1, -1, -1), masked_image], dim=1)
        return torch.cat([extra, extra]) if self._guided else extra


@dataclass(frozen=True)
class _Kept:
    """What inpainting puts back where nothing is repainted.

    Attributes:
        image: the picture's latents, [images, 4, h, w].
        noise: the start noise, likewise.
        mask: [1, 1, h, w], 1 where the picture is repainted.
    """

    image: torch.Tensor
    noise: torch.Tensor
    mask: torch.Tensor

    def as_noisy_as(self, image_weight: float, noise_weight: float) -> torch.Tensor:
        """The picture's latents with a step's noise."""
        return image_weight * self.image + noise_weight * self.noise


def _to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """uint8 [h, w, 3] → float32 [1, 3, h, w] in -1 … 1."""
    return (torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255.0) * 2.0 - 1.0
