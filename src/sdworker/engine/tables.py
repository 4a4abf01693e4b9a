"""A diffusers scheduler, for so many steps, as plain coefficients.

With its noise levels fixed, every step of a diffusers scheduler is linear in the start latents, in all model
outputs so far and in its noises, with the same coefficients for every pixel. So the scheduler itself is run
once, on a sample whose "pixels" are basis vectors: pixel 0 is the start latents, pixel 1+i the model output of
evaluation i, 1+K+i the noise drawn there and, for inpainting, 1+2K+i what the blend changed after it. What the
scheduler returns *is* the row of coefficients. From then on the engine needs no scheduler object: a step is

    UNet input = inputs[i] · history,   history[output_column[i]] = guided UNet output

Equal to the scheduler's own steps within float32 rounding (tests/engine/test_tables.py, for every sampler).
What is not linear (clipping, dynamic thresholding, Brownian-tree noise) is switched off or not offered.
"""

import copy
import inspect
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import diffusers
import torch

from sdworker.engine.schedules import impose
from sdworker.errors import UserError
from sdworker.samplers import PAIRS, Sampler

__all__ = [
    "Blend",
    "SamplerTables",
    "Table",
    "TableError",
    "first_step",
    "make_scheduler",
    "probe",
    "steps_taken",
]


class TableError(UserError):
    """A sampler cannot do what was asked of it (so many steps, or from that strength); says why."""


@dataclass(frozen=True)
class Blend:
    """Inpainting with a 4-channel UNet: after every step the kept area is put back, as noisy as the step is.

    Attributes:
        latents: [K, columns] the latents after each evaluation, before the blend.
        image: [K] weight of the picture's latents in what is put back after each evaluation.
        noise: [K] weight of the start noise in it.
        columns: the history column of each evaluation's correction.
    """

    latents: torch.Tensor
    image: tuple[float, ...]
    noise: tuple[float, ...]
    columns: tuple[int, ...]


@dataclass(frozen=True)
class Table:
    """Everything the engine must know of a sampler. K is the number of UNet evaluations.

    The history has one latent a column: column 0 is the start latents; then, evaluation by evaluation, its
    output, its noise if it is ever used, and its blend's correction. So before evaluation i the first
    `known[i]` columns are filled, and the coefficients of the others are zero.

    Attributes:
        timesteps: the timestep of each evaluation, as floats.
        inputs: [K, columns] the UNet's input at each evaluation.
        outcome: [columns] the finished latents.
        known: how many columns are filled before each evaluation.
        output_columns: the column of each evaluation's guided output.
        draws: whether the scheduler draws noise at an evaluation (the generators must advance with it).
        noise_columns: the column of that noise; None where it has no effect.
        start_image, start_noise: weights of the picture's latents and of the noise in the start latents.
        blend: set for masked tables only.
    """

    timesteps: tuple[float, ...]
    inputs: torch.Tensor
    outcome: torch.Tensor
    known: tuple[int, ...]
    output_columns: tuple[int, ...]
    draws: tuple[bool, ...]
    noise_columns: tuple[int | None, ...]
    start_image: float
    start_noise: float
    blend: Blend | None = None

    @property
    def evaluations(self) -> int:
        return len(self.timesteps)

    @property
    def columns(self) -> int:
        return self.inputs.shape[1]

    def to(self, device: torch.device) -> "Table":
        """The same table with its coefficients in float32 on `device`."""
        move: dict[str, Any] = {"device": device, "dtype": torch.float32}
        blend = self.blend and replace(self.blend, latents=self.blend.latents.to(**move))
        return replace(self, inputs=self.inputs.to(**move), outcome=self.outcome.to(**move), blend=blend)


class SamplerTables:
    """The tables of one model, probed when first asked for and cached. Safe to ask from any thread.

    Args:
        model_config: the model's own `scheduler_config.json`.
        device: where the coefficients are kept.
    """

    def __init__(self, model_config: Mapping[str, Any], device: torch.device) -> None:
        self._model_config = dict(model_config)
        self._device = device
        self._cached = lru_cache(maxsize=64)(self._build)

    def get(self, sampler: str, steps: int, *, first: int | None = None, noise_only: bool = True,
            masked: bool = False) -> Table:  # fmt: skip
        """The table of a sampler, by canonical name, on the device.

        Args:
            sampler: canonical name.
            steps: what the user calls steps (a second-order sampler evaluates the UNet about twice a step).
            first: the step to begin at, when there is a picture to start from; see `first_step`.
            noise_only: start from pure noise, not from the picture's latents with noise.
            masked: blend the kept area back in after every step.

        Raises:
            TableError: the sampler cannot do that.
        """
        return self._cached(sampler, steps, first, noise_only, masked)

    def _build(self, sampler: str, steps: int, first: int | None, noise_only: bool, masked: bool) -> Table:
        scheduler = make_scheduler(PAIRS[sampler], self._model_config)
        try:
            table = probe(scheduler, steps, first=first, noise_only=noise_only, masked=masked)
        except TableError as error:
            raise TableError(f"{sampler} {error}") from error.__cause__
        return table.to(self._device)


def first_step(steps: int, strength: float) -> int:
    """The step at which an image-to-image run begins, as diffusers' pipelines count it.

    diffusers fails when `int(steps * strength)` is 0; here the last step alone is run, so a tiny strength
    gives a picture almost unchanged, which is what was asked for.
    """
    return max(steps - max(min(int(steps * strength), steps), 1), 0)


def steps_taken(steps: int, strength: float | None) -> int:
    """Steps that are run of so many: all, or those left to an image-to-image run of that strength."""
    return steps if strength is None else steps - first_step(steps, strength)


def make_scheduler(sampler: Sampler, model_config: Mapping[str, Any]) -> Any:
    """A fresh diffusers scheduler of the sampler's class on the model's own noise schedule, or on the sampler's.

    What a model's configuration says of another sampler's noise levels must not leak into this one, and
    clipping has no meaning in latent space: both are set explicitly.
    """
    cls = getattr(diffusers, sampler.scheduler)
    neutral = dict.fromkeys(
        ("clip_sample", "thresholding", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"),
        False,
    )
    accepted = inspect.signature(cls.__init__).parameters
    settings = {key: value for key, value in {**neutral, **sampler.config}.items() if key in accepted}
    scheduler = copy.deepcopy(_made(sampler.scheduler, json.dumps(dict(model_config)), json.dumps(settings)))
    if sampler.levels is not None:
        impose(scheduler, sampler.levels)
    return scheduler


@lru_cache(maxsize=64)
def _made(scheduler: str, model_config: str, settings: str) -> Any:
    """A diffusers scheduler to copy: to make one of the DPM2 kind takes up to half a second.

    Args:
        model_config, settings: as JSON.
    """
    return getattr(diffusers, scheduler).from_config(json.loads(model_config), **json.loads(settings))


def probe(scheduler: Any, steps: int, *, first: int | None, noise_only: bool, masked: bool) -> Table:
    """Read a scheduler's coefficients off its own `scale_model_input`, `step` and `add_noise`.

    Args and errors as for `SamplerTables.get`; the coefficients are float64 on the CPU.
    """
    try:
        timesteps = _set_timesteps(scheduler, steps, first)
        start_image, start_noise = _start(scheduler, timesteps, noise_only)
        rows = _Probe(scheduler, timesteps, masked).run()
    except TableError:
        raise
    except (ValueError, IndexError, ZeroDivisionError, RuntimeError) as error:
        raise TableError(f"cannot do {steps} steps{_from(first)}: {error}") from error
    return rows.pack(start_image, start_noise)


def _from(first: int | None) -> str:
    return "" if first is None else f" from step {first + 1}"


def _set_timesteps(scheduler: Any, steps: int, first: int | None) -> torch.Tensor:
    scheduler.set_timesteps(steps, device="cpu")
    if first is None:
        return scheduler.timesteps
    begin = first * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    timesteps = scheduler.timesteps[begin:]
    if len(timesteps) == 0:
        raise TableError(f"has no step left{_from(first)} of {steps}")
    return timesteps


def _start(scheduler: Any, timesteps: torch.Tensor, noise_only: bool) -> tuple[float, float]:
    """Weights of the picture's latents and of the noise in the start latents."""
    if noise_only:
        return 0.0, float(scheduler.init_noise_sigma)
    return _noise_weights(scheduler, timesteps[:1])


def _noise_weights(scheduler: Any, timestep: torch.Tensor) -> tuple[float, float]:
    if not hasattr(scheduler, "add_noise"):
        raise TableError("cannot start from a picture (its diffusers scheduler has no add_noise)")
    image = torch.tensor([1.0, 0.0], dtype=torch.float64).view(1, 1, 1, 2)
    noise = torch.tensor([0.0, 1.0], dtype=torch.float64).view(1, 1, 1, 2)
    weights = scheduler.add_noise(image, noise, timestep).flatten().tolist()
    return weights[0], weights[1]


@dataclass
class _Rows:
    """What a probe read: coefficients over all 1+3K columns, used or not."""

    timesteps: list[float]
    inputs: torch.Tensor
    latents: torch.Tensor
    draws: list[bool]
    masked: bool
    blend_image: list[float]
    blend_noise: list[float]

    def pack(self, start_image: float, start_noise: float) -> Table:
        """Keep the columns that matter, in the order in which they become known."""
        count = len(self.timesteps)
        outcome = self.latents[-1].clone()
        if self.masked:
            outcome[1 + 3 * count - 1] = 1.0
        used = (self.inputs != 0).any(0) | (self.latents != 0).any(0)
        kept, known, outputs, noises, corrections = [0], [], [], [], []
        for i in range(count):
            known.append(len(kept))
            outputs.append(len(kept))
            kept.append(1 + i)
            noises.append(len(kept) if used[1 + count + i] else None)
            kept += [1 + count + i] if used[1 + count + i] else []
            corrections.append(len(kept))
            kept += [1 + 2 * count + i] if self.masked else []
        return Table(
            timesteps=tuple(self.timesteps),
            inputs=self.inputs[:, kept],
            outcome=outcome[kept],
            known=tuple(known),
            output_columns=tuple(outputs),
            draws=tuple(self.draws),
            noise_columns=tuple(noises),
            start_image=start_image,
            start_noise=start_noise,
            blend=Blend(
                latents=self.latents[:, kept],
                image=tuple(self.blend_image),
                noise=tuple(self.blend_noise),
                columns=tuple(corrections),
            )
            if self.masked
            else None,
        )


class _Probe:
    """One run of a scheduler over basis vectors."""

    def __init__(self, scheduler: Any, timesteps: torch.Tensor, masked: bool) -> None:
        self._scheduler = scheduler
        self._timesteps = timesteps
        self._masked = masked
        self._count = len(timesteps)
        accepted = inspect.signature(scheduler.step).parameters
        # What diffusers' pipelines pass: no extra noise in DDIM's sense, and the image's own generator.
        self._step_arguments: dict[str, Any] = {"eta": 0.0} if "eta" in accepted else {}

    def run(self) -> _Rows:
        sample = self._basis(0)
        inputs, latents, draws = [], [], []
        blend_image: list[float] = []
        blend_noise: list[float] = []
        for i, timestep in enumerate(self._timesteps):
            inputs.append(self._scheduler.scale_model_input(sample, timestep).flatten())
            with self._answer_noise(self._basis(1 + self._count + i)) as drawn:
                sample = self._scheduler.step(
                    self._basis(1 + i), timestep, sample, **self._step_arguments, return_dict=False
                )[0]
            latents.append(sample.flatten())
            draws.append(bool(drawn))
            if self._masked:
                weights = (1.0, 0.0)
                if i + 1 < self._count:
                    weights = _noise_weights(self._scheduler, self._timesteps[i + 1 : i + 2])
                blend_image.append(weights[0])
                blend_noise.append(weights[1])
                sample = sample + self._basis(1 + 2 * self._count + i)
        rows = _Rows(
            timesteps=[float(timestep) for timestep in self._timesteps],
            inputs=torch.stack(inputs).double(),
            latents=torch.stack(latents).double(),
            draws=draws,
            masked=self._masked,
            blend_image=blend_image,
            blend_noise=blend_noise,
        )
        if not (rows.inputs.isfinite().all() and rows.latents.isfinite().all()):
            raise TableError(f"gives no finite coefficients for {self._count} evaluations")
        return rows

    def _basis(self, pixel: int) -> torch.Tensor:
        sample = torch.zeros(1, 1, 1, 1 + 3 * self._count, dtype=torch.float64)
        sample[..., pixel] = 1.0
        return sample

    @contextmanager
    def _answer_noise(self, noise: torch.Tensor) -> Iterator[list[bool]]:
        """While open, the scheduler's module draws `noise` instead of random numbers; tells whether it did."""
        module: Any = sys.modules[type(self._scheduler).__module__]
        drawn: list[bool] = []

        def randn_tensor(*_args: Any, **_kwargs: Any) -> torch.Tensor:
            if drawn:
                raise TableError("draws noise twice in one step")
            drawn.append(True)
            return noise

        if not hasattr(module, "randn_tensor"):
            yield drawn
            return
        with _MODULE_LOCK:
            original = module.randn_tensor
            module.randn_tensor = randn_tensor
            try:
                yield drawn
            finally:
                module.randn_tensor = original


_MODULE_LOCK = threading.Lock()
