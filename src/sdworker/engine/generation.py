"""One drawing in the engine, from the moment it is submitted until its images are handed over.

Waiting it is cheap: the policy knows its rows, its shape and its steps, and nothing is encoded or allocated.
`begin` makes it live: history, texts, one random generator an image.

What is drawn from the generators, and in which order, is diffusers' own: `StableDiffusionPipeline`,
`StableDiffusionImg2ImgPipeline` and `StableDiffusionInpaintPipeline`, called for one image with one generator
seeded with that image's seed. So image i of a request is what diffusers draws for `seed + i`.
"""

import contextlib
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import partial
from typing import Any

import numpy as np
import torch

from sdworker.engine.chores import Chore
from sdworker.engine.controls.control import Control
from sdworker.engine.controls.rows import Lead, RowControls
from sdworker.engine.costs import Led
from sdworker.engine.device import send
from sdworker.engine.drawing import Drawing, Standing
from sdworker.engine.errors import is_fatal
from sdworker.engine.lora import NO_LORAS
from sdworker.engine.networks.model import Model
from sdworker.engine.plan import Plan
from sdworker.engine.previews import ComingPreview, Previews
from sdworker.engine.roster import Group
from sdworker.engine.tables import SamplerTables, Table, first_step
from sdworker.engine.unet_input import Conditioning, UNetInput

__all__ = ["Generation", "OnStep", "Status", "table_for"]

log = logging.getLogger(__name__)

OnStep = Callable[[int, int], None]
"""Called on the engine's thread after each step of a drawing: evaluations done, evaluations in all."""

_FLOAT_BYTES = 4


class Status(Enum):
    """Where a generation is on its way; it goes through them in this order, and may fail at any."""

    WAITING = auto()
    BEGINNING = auto()
    LIVE = auto()
    LEAVING = auto()
    """Its steps are done; its images are decoded, piece by piece, or on their way from the device."""


def table_for(drawing: Drawing, tables: SamplerTables, *, inpaints_natively: bool) -> Table:
    """The sampler table a drawing runs on.

    Raises:
        TableError: the sampler cannot do it.
    """
    masked = drawing.mask is not None
    return tables.get(
        drawing.sampler,
        drawing.steps,
        first=first_step(drawing.steps, drawing.strength) if drawing.starts_from_a_picture else None,
        # As diffusers has it: inpainting at full strength forgets the picture, image to image never does.
        noise_only=not drawing.starts_from_a_picture or (masked and drawing.strength == 1.0),
        masked=masked and not inpaints_natively,
    )


class Generation:
    """A drawing and its state. Made by whoever submits it; from then on the engine's thread's own.

    Attributes:
        status: where it is.
        images: what its caller waits for: uint8 [height, width, 3] of each seed, or the latents of all.
        as_latents: which of them.
        chores: once it leaves, the decoding of its images, in the order of its seeds.
        cancelled: nobody wants it any more; set by any thread.
        previews: who wants to see it on its way; set before it is submitted.
        evaluation: UNet evaluations done.
        standing: how long its job has been here.
        rows: rows it brings to a UNet batch.
        model: what it is drawn with.
        shape: latent height and width.
        group: the model and the shape; generations of one group can share a step.
        memory_bytes: what it holds on the device from its beginning on, LoRAs apart.
        adapters: its LoRAs, and what each takes in the UNet's slots, in bytes.
        adapter_bytes: what a step gathers of them for its rows.
    """

    def __init__(
        self,
        drawing: Drawing,
        table: Table,
        model: Model,
        on_step: OnStep | None = None,
        *,
        standing: Standing | None = None,
        as_latents: bool = False,
    ) -> None:
        """
        Args:
            drawing: what to draw.
            table: its sampler's (`table_for`).
            model: what it will be drawn with; used for no more than its plan until it begins.
            on_step: told how far it is.
            standing: of its job, where other passes were before or come after.
            as_latents: its latents are wanted, not its images.

        Raises:
            EngineError: it cannot be drawn as it is.
        """
        self.drawing = drawing
        self.table = table
        self.plan: Plan = model.plan(drawing, table.evaluations)
        self.status = Status.WAITING
        self.images: Future[Any] = Future()
        self.chores: list[Chore[np.ndarray]] = []
        self.cancelled = False
        self.previews: Previews | None = None
        self.evaluation = 0
        self.as_latents = as_latents
        self.standing = standing or Standing()
        self.model = model
        self._on_step = on_step
        self._pieces: Iterator[None] | None = None  # of its beginning
        self._state: _State | None = None
        self._told: tuple[int, tuple[Control, ...], Conditioning] | None = None
        scale = model.autoencoder.pixels_per_latent
        channels = model.autoencoder.latent_channels
        self._latent_shape = (1, channels, drawing.height // scale, drawing.width // scale)
        self.rows = len(drawing.seeds) * self.plan.guidance.rows
        self.shape = self._latent_shape[2], self._latent_shape[3]
        self.group: Group = model, self.shape
        self.memory_bytes = self._count_memory()
        self.adapters = model.adapters.needs(drawing.loras)
        self.adapter_bytes = self.rows * sum(self.adapters.values())
        self._held = NO_LORAS
        # Of each control: what its net costs, of the UNet's forward, and at which evaluations it counts.
        self._leading = [
            (
                control,
                control.net.multiplications / model.multiplications,
                [control.counts_at(i, table.evaluations) for i in range(table.evaluations)],
            )
            for control in drawing.controls
        ]
        self._led: tuple[int, tuple[Led, ...]] | None = None

    @property
    def is_live(self) -> bool:
        """It can take part in a step."""
        return self.status is Status.LIVE

    @property
    def to_load(self) -> int:
        """LoRAs that must be brought onto the device before it can take part in a step."""
        return 0 if self.is_live else self.model.adapters.missing(self.adapters)

    @property
    def has_slots(self) -> bool:
        """Its LoRAs are on the device, or room for them is."""
        return self.model.adapters.fits(self.adapters)

    @property
    def most_adapter_bytes(self) -> int:
        return self.model.adapters.budget_bytes

    @property
    def age(self) -> float:
        return self.standing.age

    @property
    def passed_over(self) -> float:
        return self.standing.passed_over

    @property
    def evaluations(self) -> float:
        return self.table.evaluations + self.standing.to_come

    @property
    def evaluations_left(self) -> float:
        return self.evaluations - self.evaluation

    @property
    def led(self) -> Sequence[Led]:
        """Its rows that ControlNets lead; what passes to come have of that is taken to be in proportion."""
        if self._led is None or self._led[0] != self.evaluation:
            self._led = self.evaluation, self._leads_from(self.evaluation)
        return self._led[1]

    def _leads_from(self, evaluation: int) -> tuple[Led, ...]:
        to_come = self.standing.to_come / self.table.evaluations
        return tuple(
            Led(
                net=id(control.net),
                share=share,
                rows=self.rows - self._first_led_by(control),
                now=any(counts[evaluation : evaluation + 1]),
                evaluations=sum(counts) * (1 + to_come),
                evaluations_left=sum(counts[evaluation:]) + sum(counts) * to_come,
            )
            for control, share, counts in self._leading
        )

    @property
    def text_length(self) -> int:
        """Tokens of its texts at the coming evaluation."""
        return self.plan.text_length(self.evaluation)

    @property
    def finished(self) -> bool:
        return self.evaluation == self.table.evaluations

    def begin(self) -> Iterator[None]:
        """Encode what it needs and draw its start latents: one piece of that for each item taken.

        It is live once there is no item left. Begun anew after a failure, it is as if nothing had been.
        """
        self.status = Status.BEGINNING
        self._held.release()
        self._held = yield from self.model.adapters.hold(self.drawing.loras)
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in self.drawing.seeds]
        conditionings = yield from self.model.condition(self.drawing, self.plan, self._held)
        self._held.release_texts()
        leads = yield from self._embed_hints()
        self._state = yield from self._start(generators, conditionings, leads)
        self.status = Status.LIVE

    def begin_piece(self) -> None:
        """The next piece of its beginning."""
        if self._pieces is None:
            self._pieces = self.begin()
        next(self._pieces, None)
        if self.is_live:
            self._pieces = None

    def next_input(self) -> UNetInput:
        """What the UNet must see for the next evaluation."""
        i = self.evaluation
        latents = self._combine(self.table.inputs[i], self.table.known[i])
        timesteps = torch.full((self.rows,), self.table.timesteps[i], device=latents.device)
        return UNetInput(latents.repeat(self.plan.guidance.rows, 1, 1, 1), timesteps, self.conditioning_at(i))

    def conditioning_at(self, evaluation: int) -> Conditioning:
        """What the UNet is told beside latents and time at an evaluation: of all rows, `Guidance` says in which
        order."""
        stage, count = self.plan.stages[evaluation], self.table.evaluations
        controls = tuple(one for one in self.drawing.controls if one.counts_at(evaluation, count))
        if self._told is None or self._told[:2] != (stage, controls):
            state = self._begun
            told = state.conditionings[stage].for_images(len(self.drawing.seeds))
            told = replace(told, adapters=self._held.rows(self.rows))
            if state.channels is not None:
                told = replace(told, channels=state.channels.repeat(self.plan.guidance.rows, 1, 1, 1))
            if controls:
                told = replace(told, controls=self._led_by(controls))
            self._told = stage, controls, told
        return self._told[2]

    def _led_by(self, controls: "Sequence[Control]") -> RowControls:
        """Which rows they lead: all, or those with a prompt."""
        leads = [
            (row, self._begun.leads[self.drawing.controls.index(control)])
            for control in controls
            for row in range(self._first_led_by(control), self.rows)
        ]
        return RowControls(self.rows, tuple(leads))

    def _first_led_by(self, control: Control) -> int:
        """From which of its rows on."""
        return len(self.drawing.seeds) if control.only_prompted and self.plan.guidance.guided else 0

    def take(self, predicted: torch.Tensor) -> None:
        """Put the UNet's answer into the history and go on to the next evaluation: wholly, or not at all.

        What it writes into the history is read from the next evaluation on, so that a take that failed can be
        repeated; its noise is drawn again from where the generators were.

        Args:
            predicted: [rows, 4, h, w] in float32.
        """
        with self._as_they_were_if_it_fails():
            self._take(predicted)
        self.evaluation += 1

    def _take(self, predicted: torch.Tensor) -> None:
        i, table, state = self.evaluation, self.table, self._begun
        state.history[table.output_columns[i]] = self.plan.guidance.combine(predicted)
        if table.draws[i]:
            noise = self._draw_noise(state.generators)
            column = table.noise_columns[i]
            if column is not None:
                state.history[column] = noise
        if table.blend is not None and state.kept is not None:
            column = table.blend.columns[i]
            latents = self._combine(table.blend.latents[i], column)
            original = state.kept.as_noisy_as(table.blend.image[i], table.blend.noise[i])
            state.history[column] = (1 - state.kept.mask) * (original - latents)

    @property
    def _progress(self) -> tuple[int, int]:
        """Evaluations done, and in all, of all passes."""
        before, after = self.standing.before, self.standing.after
        return before + self.evaluation, before + self.table.evaluations + after

    def report(self) -> None:
        """Tell whoever asked how far it is, and show it; what they do wrong must not stop the engine."""
        if self._on_step is not None:
            try:
                self._on_step(*self._progress)
            except Exception:
                log.exception("on_step failed; it is not called again")
                self._on_step = None
        if self.previews is not None and not self.finished:  # then the picture itself comes
            try:
                if self.previews.wanted():
                    self.previews.show(self._preview(), *self._progress)
            except Exception as error:
                if is_fatal(error):
                    raise
                log.exception("a preview failed; there are no more of this drawing")
                self.previews = None

    def _preview(self) -> ComingPreview:
        """Its first image, as what the UNet was told last and answered makes it."""
        i, state, previewer = self.evaluation - 1, self._begun, self.model.previewer()
        known = self.table.known[i]
        history = state.history[:known, :1]
        told = (self.table.inputs[i, :known] @ history.reshape(known, -1)).view(history.shape[1:])
        answer = state.history[self.table.output_columns[i], :1]
        clean = previewer.clean(told, answer, self.table.timesteps[i])
        if state.kept is not None:
            clean = state.kept.mask * clean + (1 - state.kept.mask) * state.kept.image[:1]
        return previewer.picture(clean)

    def outcome(self) -> torch.Tensor:
        """The finished latents, [images, 4, h, w] in float32."""
        return self._combine(self.table.outcome, self.table.columns)

    def leave(self) -> torch.Tensor:
        """Its steps are done, and nothing but its latents, which it returns, and its images is needed any more:
        `chores` decode them, one at a time, since the memory a decode needs grows with the pixels decoded at once.
        """
        latents = self.outcome()
        self.status = Status.LEAVING
        self._state = self._told = None
        self._held.release()
        if self.as_latents:
            return latents
        autoencoder = self.model.autoencoder
        kind = "decode", self.drawing.height, self.drawing.width
        self.chores = [
            Chore(
                partial(autoencoder.decode_in_pieces, one),
                kind=kind,
                is_large=autoencoder.is_large(*kind[1:]),
            )
            for one in latents.split(1)
        ]
        return latents

    def fail(self, error: Exception) -> None:
        """Tell its caller, once."""
        self._pieces = None
        self._held.release()
        if not self.images.done():
            self.images.set_exception(error)

    @property
    def _begun(self) -> "_State":
        assert self._state is not None, "it has not begun"
        return self._state

    def _combine(self, coefficients: torch.Tensor, known: int) -> torch.Tensor:
        """The weighted sum of the first `known` columns of the history, [images, 4, h, w]."""
        history = self._begun.history[:known]
        return (coefficients[:known] @ history.view(known, -1)).view(history.shape[1:])

    def _draw_noise(self, generators: "list[torch.Generator]") -> torch.Tensor:
        draws = [torch.randn(self._latent_shape, generator=generator) for generator in generators]
        return send(torch.cat(draws), self.model.device)

    @contextlib.contextmanager
    def _as_they_were_if_it_fails(self) -> Iterator[None]:
        """Put the generators back if what is done while it is open fails."""
        if not self.table.draws[self.evaluation]:
            yield
            return
        generators = self._begun.generators
        states = [generator.get_state() for generator in generators]
        try:
            yield
        except BaseException:
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)
            raise

    def _count_memory(self) -> int:
        """Bytes of the history, of the pictures' latents and of the texts."""
        images = len(self.drawing.seeds)
        _, channels, height, width = self._latent_shape
        layers = channels * images * self.table.columns
        if self.table.blend is not None:  # the picture, its noise and the mask
            layers += 2 * channels * images + 1
        if self.model.inpaints_natively:
            layers += (channels + 1) * images
        hints = sum(control.net.hint_channels for control in self.drawing.controls)
        hint_bytes = hints * height * width * self.model.dtype.itemsize
        return layers * height * width * _FLOAT_BYTES + hint_bytes + self.plan.memory_bytes

    def _embed_hints(self) -> "Generator[None, None, tuple[Lead, ...]]":
        """What each of its ControlNets is shown and how much it counts, on the device."""
        leads = []
        for control in self.drawing.controls:
            strengths = send(torch.tensor(control.strengths()), self.model.device)
            leads.append(Lead(control.net, control.net.embed(control.hint), strengths))
            yield
        return tuple(leads)

    def _start(
        self,
        generators: "list[torch.Generator]",
        conditionings: "Sequence[Conditioning]",
        leads: tuple[Lead, ...],
    ) -> "Generator[None, None, _State]":
        """Draw what diffusers' pipelines draw before their loop, in their order."""
        drawing, table, model = self.drawing, self.table, self.model
        pixels = None if drawing.image is None else _to_tensor(drawing.image)
        mask = hidden = image = masked_image = None
        if pixels is not None and drawing.mask is not None:
            repainted = torch.from_numpy(drawing.mask >= 128)[None, None]
            mask = send(torch.nn.functional.interpolate(repainted.float(), size=self.shape), model.device)
            hidden = pixels * ~repainted
        if pixels is not None and (
            drawing.latents is not None or table.start_image != 0 or table.blend is not None
        ):
            image = yield from self._encode_image(pixels, generators)
        if drawing.latents is not None:
            enlarged = drawing.latents.enlarged(self.shape)
            # Around what is repainted it is the picture, which was never small.
            image = enlarged if image is None or mask is None else mask * enlarged + (1 - mask) * image
            if hidden is not None and model.inpaints_natively:
                # As diffusers' pipelines have it where they are given latents: encoded before they are called.
                masked_image = yield from self._encode_image(hidden, generators)
        noise = self._draw_noise(generators)
        start = table.start_noise * noise
        if image is not None:
            start += table.start_image * image
        if hidden is not None and drawing.latents is None:
            # diffusers encodes the masked picture for every UNet, and so advances the generators.
            masked_image = yield from self._encode_image(hidden, generators)
        history = torch.empty((table.columns, *start.shape), device=start.device, dtype=torch.float32)
        history[0] = start
        return _State(
            generators=generators,
            conditionings=conditionings,
            leads=leads,
            channels=self._native_mask(mask, masked_image) if model.inpaints_natively else None,
            kept=_Kept(image, noise, mask)
            if table.blend is not None and image is not None and mask is not None
            else None,
            history=history,
        )

    def _encode_image(
        self, pixels: torch.Tensor, generators: "list[torch.Generator]"
    ) -> Generator[None, None, torch.Tensor]:
        """Latents, [images, 4, h, w], of one picture or of each image's own, each sampled with its image's own
        generator."""
        posteriors = []
        for picture in pixels.split(1):
            posteriors.append((yield from self.model.autoencoder.encode_in_pieces(picture)))
            yield
        each = posteriors if len(posteriors) == len(generators) else posteriors * len(generators)
        return torch.cat(
            [posterior.sample(generator) for posterior, generator in zip(each, generators, strict=True)]
        )

    def _native_mask(self, mask: torch.Tensor | None, masked_image: torch.Tensor | None) -> torch.Tensor:
        """The five extra channels of an inpainting UNet, [images, 5, h, w]; without a mask all is repainted."""
        images = len(self.drawing.seeds)
        if mask is None or masked_image is None:
            mask = torch.ones(1, 1, *self.shape, device=self.model.device)
            blank = torch.zeros(1, 3, self.drawing.height, self.drawing.width)
            masked_image = self.model.autoencoder.encode(blank).mean.expand(images, -1, -1, -1)
        return torch.cat([mask.expand(images, -1, -1, -1), masked_image], dim=1)


@dataclass(frozen=True)
class _State:
    """What a generation has from its beginning to its end.

    Attributes:
        generators: one an image.
        conditionings: of one image's rows; the plan says which evaluation has which.
        leads: of each of the drawing's controls, what leads its rows.
        channels: [images, 5, h, w] of an inpainting UNet, else None.
        kept: where a mask is blended in.
        history: [columns, images, 4, h, w] in float32.
    """

    generators: list[torch.Generator]
    conditionings: Sequence[Conditioning]
    leads: tuple[Lead, ...]
    channels: torch.Tensor | None
    kept: "_Kept | None"
    history: torch.Tensor


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
    """uint8 [h, w, 3], or several, → float32 [n, 3, h, w] in -1 … 1."""
    several = torch.from_numpy(pixels if pixels.ndim == 4 else pixels[None])
    return (several.permute(0, 3, 1, 2).float() / 255.0) * 2.0 - 1.0
