"""Noise levels by formula, for schedules that schedulers of diffusers have no switch for, and how they take them.

A noise level is a sigma, the noise's share beside the picture's in k-diffusion's units. A model has one for each
of its timesteps; a schedule picks as many as there are steps, from the highest down. Zero, where every run ends,
is the scheduler's to add.
"""

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

__all__ = ["impose", "noise_levels"]

_RHO = 7.0  # arXiv 2206.00364
_BETA = 0.6  # arXiv 2407.12173, both parameters


def noise_levels(schedule: str, steps: int, model: np.ndarray) -> np.ndarray:
    """[steps] float64, falling: the noise levels of a schedule.

    Args:
        schedule: a name in `sdworker.samplers.SCHEDULES`.
        model: [timesteps] the model's own levels, rising.
    """
    return _FORMULAS[schedule](steps, model)


def impose(scheduler: Any, schedule: str) -> None:
    """From now on, `set_timesteps` of a diffusers scheduler sets a schedule's noise levels.

    A scheduler with a switch for Karras' levels is made to take these in their place, so that everything else
    (timesteps, levels between steps, the last step) stays its own. `use_karras_sigmas` must then be accepted.
    """
    plain = scheduler.set_timesteps
    alphas = scheduler.alphas_cumprod.double().numpy()
    model = np.sqrt((1 - alphas) / alphas)

    def set_timesteps(num_inference_steps: int, device: Any = None) -> None:
        levels = noise_levels(schedule, num_inference_steps, model)
        _SETTERS.get(type(scheduler).__name__, _through_karras)(scheduler, plain, levels, model, device)

    scheduler.set_timesteps = set_timesteps


def _through_karras(
    scheduler: Any, plain: Callable[..., None], levels: np.ndarray, _model: np.ndarray, device: Any
) -> None:
    scheduler._convert_to_karras = lambda *_args, **_named: levels
    scheduler.register_to_config(use_karras_sigmas=True)
    plain(len(levels), device=device)


def _euler_ancestral(
    scheduler: Any, plain: Callable[..., None], levels: np.ndarray, model: np.ndarray, device: Any
) -> None:
    plain(len(levels), device=device)
    scheduler.sigmas = torch.tensor([*levels, 0.0], dtype=torch.float32)
    scheduler.timesteps = torch.tensor(_timesteps(levels, model), dtype=torch.float32, device=device)


def _by_timesteps(
    scheduler: Any, plain: Callable[..., None], levels: np.ndarray, model: np.ndarray, device: Any
) -> None:
    whole = _timesteps(levels, model).round().astype(int).tolist()
    if len(set(whole)) < len(whole):
        raise ValueError("the schedule comes to the same timestep twice; take fewer steps")
    # It would warn, at every job, that these timesteps are not those it would choose itself.
    logging.getLogger(type(scheduler).__module__).setLevel(logging.ERROR)
    plain(timesteps=whole, device=device)


def _timesteps(levels: np.ndarray, model: np.ndarray) -> np.ndarray:
    """The model's timesteps, with fractions, at which it has those levels."""
    return np.interp(np.log(levels), np.log(model), np.arange(len(model)))


_SETTERS: dict[str, Callable[[Any, Callable[..., None], np.ndarray, np.ndarray, Any], None]] = {
    "EulerAncestralDiscreteScheduler": _euler_ancestral,
    "LCMScheduler": _by_timesteps,
    "DDPMScheduler": _by_timesteps,
}


def _at(timesteps: np.ndarray, model: np.ndarray) -> np.ndarray:
    """The model's levels at timesteps, between two of them on a straight line of their logarithms."""
    return np.exp(np.interp(timesteps, np.arange(len(model)), np.log(model)))


def _uniform(steps: int, model: np.ndarray) -> np.ndarray:
    return _at(np.linspace(len(model) - 1, 0, steps), model)


def _sgm_uniform(steps: int, model: np.ndarray) -> np.ndarray:
    return _at(np.linspace(len(model) - 1, 0, steps + 1)[:-1], model)


def _simple(steps: int, model: np.ndarray) -> np.ndarray:
    back = (np.arange(steps) * (len(model) / steps)).astype(int)
    return model[len(model) - 1 - back]


def _ddim(steps: int, model: np.ndarray) -> np.ndarray:
    """arXiv 2010.02502: timesteps 1, 1 + stride, …"""
    timesteps = 1 + np.arange(steps) * (len(model) // steps)
    return model[np.minimum(timesteps, len(model) - 1)[::-1]]


def _turbo(steps: int, model: np.ndarray) -> np.ndarray:
    """diffusers' "trailing" spacing, arXiv 2305.08891, table 2."""
    timesteps = np.round(np.arange(steps, 0, -1) * (len(model) / steps)).astype(int) - 1
    return model[timesteps]


def _karras(steps: int, model: np.ndarray) -> np.ndarray:
    highest, lowest = (float(model[i]) ** (1 / _RHO) for i in (-1, 0))
    return np.linspace(highest, lowest, steps) ** _RHO


def _exponential(steps: int, model: np.ndarray) -> np.ndarray:
    return np.exp(np.linspace(math.log(model[-1]), math.log(model[0]), steps))


def _kl_optimal(steps: int, model: np.ndarray) -> np.ndarray:
    """arXiv 2404.14507, equation 22: even steps of the sigmas' arc tangent."""
    return np.tan(np.linspace(math.atan(model[-1]), math.atan(model[0]), steps))


def _align_your_steps(steps: int, _model: np.ndarray) -> np.ndarray:
    """arXiv 2404.14507: ten steps for Stable Diffusion 1.x, and for other counts levels between theirs.

    For those the paper's last level is needed; diffusers' list has the zero there that ends the run.
    """
    from diffusers.schedulers.scheduling_utils import AysSchedules  # it is there once a scheduler is

    published = [*AysSchedules["StableDiffusionSigmas"][:-1], 0.029]
    places = np.linspace(0, 1, len(published))
    return np.exp(np.interp(np.linspace(0, 1, steps + 1)[:-1], places, np.log(published)))


def _beta(steps: int, model: np.ndarray) -> np.ndarray:
    import scipy.stats  # a third of a second, and few ask for it

    shares = scipy.stats.beta.ppf(1 - np.linspace(0, 1, steps), _BETA, _BETA)
    return model[0] + shares * (model[-1] - model[0])


_FORMULAS: dict[str, Callable[[int, np.ndarray], np.ndarray]] = {
    "uniform": _uniform,
    "karras": _karras,
    "exponential": _exponential,
    "sgm_uniform": _sgm_uniform,
    "kl_optimal": _kl_optimal,
    "align_your_steps": _align_your_steps,
    "simple": _simple,
    "ddim": _ddim,
    "beta": _beta,
    "turbo": _turbo,
}
