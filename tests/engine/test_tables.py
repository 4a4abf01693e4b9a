"""A sampler's table is the scheduler itself: same inputs, same steps, same noise, for every sampler."""

import importlib
import inspect
from typing import Any

import diffusers
import pytest
import torch

from sdworker.engine.tables import SamplerTables, Table, TableError, first_step, make_scheduler, probe
from sdworker.samplers import PAIRS, SAMPLERS

SD15 = {
    "_class_name": "PNDMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "trained_betas": None,
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "clip_sample": False,
    "prediction_type": "epsilon",
}
V_PREDICTION = {**SD15, "prediction_type": "v_prediction"}
SHAPE = (1, 4, 3, 5)


def test_a_samplers_order_is_what_its_scheduler_takes_of_evaluations() -> None:
    tables = SamplerTables(SD15, torch.device("cpu"))
    for sampler in SAMPLERS.values():
        evaluations = tables.get(sampler.name, 20).evaluations
        assert abs(evaluations - 20 * sampler.order) <= 1, sampler.name


class FakeUNet:
    """A nonlinear stand-in for the UNet, the same for scheduler and table."""

    def __call__(self, latents: torch.Tensor, timestep: float) -> torch.Tensor:
        return torch.tanh(latents * 0.7 + timestep / 1000) + 0.1 * latents.roll(1, -1)


def run_scheduler(scheduler: Any, steps: int, noise: list[torch.Tensor], first: int | None) -> torch.Tensor:
    """The loop of diffusers' pipelines, with the noise given."""
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps
    start = noise[0] * scheduler.init_noise_sigma
    if first is not None:
        timesteps = timesteps[first * scheduler.order :]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first * scheduler.order)
        start = scheduler.add_noise(IMAGE, noise[0], timesteps[:1])
    module: Any = importlib.import_module(type(scheduler).__module__)
    draws = iter(noise[1:])
    original = getattr(module, "randn_tensor", None)
    module.randn_tensor = lambda *_, **__: next(draws)
    arguments = {"eta": 0.0} if "eta" in scheduler.step.__code__.co_varnames else {}
    try:
        latents = start
        for timestep in timesteps:
            output = FakeUNet()(scheduler.scale_model_input(latents, timestep), float(timestep))
            latents = scheduler.step(output, timestep, latents, **arguments, return_dict=False)[0]
    finally:
        if original is not None:
            module.randn_tensor = original
    return latents


def run_table(table: Table, noise: list[torch.Tensor]) -> torch.Tensor:
    """The same by coefficients alone."""
    history = torch.zeros(table.columns, *SHAPE, dtype=torch.float64)
    history[0] = table.start_image * IMAGE + table.start_noise * noise[0]
    draws = iter(noise[1:])
    for i, timestep in enumerate(table.timesteps):
        latents = torch.einsum("h,hbcxy->bcxy", table.inputs[i], history)
        history[table.output_columns[i]] = FakeUNet()(latents, timestep)
        if table.draws[i]:
            drawn = next(draws)
            column = table.noise_columns[i]
            if column is not None:
                history[column] = drawn
    return torch.einsum("h,hbcxy->bcxy", table.outcome, history)


IMAGE = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(99))


@pytest.mark.parametrize("config", [SD15, V_PREDICTION], ids=["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 2, 7, 30])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("part", ["whole", "from the middle"])
def test_a_table_does_what_its_scheduler_does(
    sampler: str, steps: int, part: str, config: dict[str, Any]
) -> None:
    compare(sampler, steps, part, config)


@pytest.mark.parametrize("steps", [1, 8])
@pytest.mark.parametrize("sampler", sorted(PAIRS.keys() - SAMPLERS.keys()))
@pytest.mark.parametrize("part", ["whole", "from the middle"])
def test_a_table_on_any_schedule_does_what_its_scheduler_does(sampler: str, steps: int, part: str) -> None:
    compare(sampler, steps, part, SD15)


def compare(sampler: str, steps: int, part: str, config: dict[str, Any]) -> None:
    """Run a scheduler and its table side by side, and hold the one against the other."""
    first = None if part == "whole" else first_step(steps, 0.6)
    if sampler == "IPNDM" and first is not None:
        return
    generator = torch.Generator().manual_seed(3)
    noise = [torch.randn(SHAPE, dtype=torch.float64, generator=generator) for _ in range(2 * steps + 2)]
    table = probe(
        make_scheduler(PAIRS[sampler], config), steps, first=first, noise_only=first is None, masked=False
    )
    theirs = run_scheduler(make_scheduler(PAIRS[sampler], config), steps, noise, first)
    ours = run_table(table, noise)
    # IPNDM in one step gives zeros, in diffusers too.
    assert float((ours - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_coefficients_before_an_output_is_known_are_zero(sampler: str) -> None:
    masked = sampler != "IPNDM"
    table = probe(make_scheduler(SAMPLERS[sampler], SD15), 9, first=None, noise_only=True, masked=masked)
    for i in range(table.evaluations):
        assert not table.inputs[i, table.known[i] :].any()


def test_what_a_model_says_of_another_samplers_noise_levels_does_not_leak() -> None:
    karras_model = {**SD15, "use_karras_sigmas": True, "clip_sample": True, "thresholding": True}
    for name in ("Euler", "DPM++ 2M", "DDIM", "DDPM", "UniPC"):
        ours = make_scheduler(SAMPLERS[name], karras_model).config
        plain = make_scheduler(SAMPLERS[name], SD15).config
        accepted = inspect.signature(getattr(diffusers, SAMPLERS[name].scheduler).__init__).parameters
        for key in accepted.keys() & {"use_karras_sigmas", "clip_sample", "thresholding"}:
            assert ours[key] == plain[key]


@pytest.mark.parametrize(
    ("steps", "strength", "first"),
    [(25, 0.8, 5), (25, 1.0, 0), (25, 0.01, 24), (1, 0.5, 0), (100, 0.1, 90), (500, 0.999, 1)],
)
def test_strength_says_where_to_begin(steps: int, strength: float, first: int) -> None:
    assert first_step(steps, strength) == first


def test_a_sampler_that_cannot_says_its_name_and_why() -> None:
    tables = SamplerTables(SD15, torch.device("cpu"))
    with pytest.raises(TableError, match="IPNDM cannot start from a picture"):
        tables.get("IPNDM", 5, first=1, noise_only=False)
    with pytest.raises(TableError, match="TCD cannot do 300 steps"):
        tables.get("TCD", 300)


def test_tables_are_probed_once() -> None:
    tables = SamplerTables(SD15, torch.device("cpu"))
    assert tables.get("Euler", 5) is tables.get("Euler", 5)


def test_probing_leaves_diffusers_noise_as_it_was() -> None:
    from diffusers.schedulers import scheduling_euler_ancestral_discrete as module

    before = module.randn_tensor
    probe(make_scheduler(SAMPLERS["Euler a"], SD15), 5, first=None, noise_only=True, masked=False)
    assert module.randn_tensor is before
