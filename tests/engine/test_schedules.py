"""A schedule's noise levels are those of its formula, and every sampler goes through them."""

from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_utils import AysSchedules

from sdworker.engine.schedules import noise_levels
from sdworker.engine.tables import SamplerTables, TableError, make_scheduler
from sdworker.samplers import PAIRS, SCHEDULES, Sampler

from .test_tables import SD15

STEPS = (1, 2, 7, 10, 25, 50)


def model_levels() -> np.ndarray:
    """[1000] Stable Diffusion 1.5's levels, rising, worked out from its betas."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    kept = np.cumprod(1 - betas)
    return np.sqrt(1 / kept - 1)


MODEL = model_levels()


def euler(steps: int, **config: Any) -> np.ndarray:
    """The levels diffusers' Euler sets, without the zero at their end."""
    scheduler = diffusers.EulerDiscreteScheduler.from_config({**SD15, **config})
    scheduler.set_timesteps(steps)
    return scheduler.sigmas[:-1].double().numpy()


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(
    ("schedule", "config"),
    [
        ("uniform", {"timestep_spacing": "linspace", "interpolation_type": "linear"}),
        ("karras", {"use_karras_sigmas": True}),
        ("exponential", {"use_exponential_sigmas": True}),
        ("beta", {"use_beta_sigmas": True}),
        ("turbo", {"timestep_spacing": "trailing"}),
    ],
)
def test_where_diffusers_has_the_schedule_too_the_levels_are_its(
    schedule: str, config: dict[str, Any], steps: int
) -> None:
    # Between two timesteps diffusers interpolates levels, k-diffusion their logarithms.
    tolerance = 2e-3 if schedule == "uniform" else 1e-4
    # With one step diffusers' Euler starts at timestep 0 and makes all other levels from that one.
    if steps > 1 or schedule == "turbo":
        assert noise_levels(schedule, steps, MODEL) == pytest.approx(euler(steps, **config), rel=tolerance)


def test_align_your_steps_are_the_published_ones_at_ten_steps() -> None:
    published = AysSchedules["StableDiffusionSigmas"]
    assert noise_levels("align_your_steps", 10, MODEL) == pytest.approx(published[:-1])


def test_align_your_steps_are_interpolated_by_their_logarithms() -> None:
    levels = noise_levels("align_your_steps", 20, MODEL)
    assert levels[::2] == pytest.approx(AysSchedules["StableDiffusionSigmas"][:-1])
    assert levels[1:-1:2] ** 2 == pytest.approx(levels[:-2:2] * levels[2::2])


@pytest.mark.parametrize("steps", STEPS)
def test_simple_takes_every_so_manyth_level_from_the_top(steps: int) -> None:
    expected = [MODEL[-(1 + int(i * (1000 / steps)))] for i in range(steps)]
    assert noise_levels("simple", steps, MODEL) == pytest.approx(expected)


@pytest.mark.parametrize("steps", STEPS)
def test_sgm_uniform_leaves_the_last_of_one_more_step_out(steps: int) -> None:
    more = noise_levels("uniform", steps + 1, MODEL)
    assert noise_levels("sgm_uniform", steps, MODEL) == pytest.approx(more[:-1])


@pytest.mark.parametrize("steps", STEPS[1:])
def test_ddim_is_ddims_own_spacing(steps: int) -> None:
    scheduler = diffusers.DDIMScheduler.from_config({**SD15, "timestep_spacing": "leading"})
    scheduler.set_timesteps(steps)
    assert noise_levels("ddim", steps, MODEL) == pytest.approx(MODEL[scheduler.timesteps.numpy()])


def test_kl_optimal_steps_evenly_through_the_arc_tangent() -> None:
    angles = np.arctan(noise_levels("kl_optimal", 9, MODEL))
    assert np.diff(angles) == pytest.approx(np.full(8, np.diff(angles)[0]))
    assert (angles[0], angles[-1]) == pytest.approx((np.arctan(MODEL[-1]), np.arctan(MODEL[0])))


@pytest.mark.parametrize("steps", [*STEPS, 500])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_levels_fall_from_the_models_highest_and_stay_above_zero(schedule: str, steps: int) -> None:
    levels = noise_levels(schedule, steps, MODEL)
    assert levels.shape == (steps,)
    assert (np.diff(levels) < 0).all()
    assert levels[-1] > 0
    if schedule != "ddim":
        assert levels[0] == pytest.approx(MODEL[-1], rel=1e-3)


@pytest.mark.parametrize("sampler", [pair for pair in PAIRS.values() if pair.levels], ids=lambda s: s.name)
def test_a_sampler_without_a_switch_goes_through_the_levels_all_the_same(sampler: Sampler) -> None:
    scheduler = make_scheduler(sampler, SD15)
    scheduler.set_timesteps(12)
    assert sampler.levels is not None
    wanted = noise_levels(sampler.levels, 12, MODEL)
    if sampler.scheduler in ("LCMScheduler", "DDPMScheduler"):
        found = MODEL[scheduler.timesteps.numpy()]
        assert found == pytest.approx(wanted, rel=0.25)  # whole timesteps, which are far apart near zero
        return
    # A second-order scheduler has each level twice, or one of its own between two.
    sigmas = scheduler.sigmas.double().numpy()
    assert sigmas[0] == pytest.approx(wanted[0], rel=1e-4)
    assert all(np.isclose(sigmas, level, rtol=1e-4).any() for level in wanted)
    assert scheduler.timesteps[0] == pytest.approx(np.interp(wanted[0], MODEL, np.arange(1000)), abs=1)


@pytest.mark.parametrize("steps", [3, 11])
def test_the_number_of_steps_may_change(steps: int) -> None:
    scheduler = make_scheduler(PAIRS["DPM++ 2M Simple"], SD15)
    for count in (7, steps, 5, steps):
        scheduler.set_timesteps(count)
        assert len(scheduler.timesteps) == count


def test_steps_too_close_for_whole_timesteps_say_so() -> None:
    tables = SamplerTables(SD15, torch.device("cpu"))
    assert tables.get("LCM Exponential", 8).evaluations == 8
    with pytest.raises(TableError, match=r"LCM Exponential cannot do 60 steps: .* take fewer steps"):
        tables.get("LCM Exponential", 60)
