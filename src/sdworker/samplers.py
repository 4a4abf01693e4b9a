"""Names of samplers and schedules, and the diffusers scheduler and configuration each pair stands for.

Declared once: validation, documentation and the engine's tables (`engine/tables.py`) all read this catalogue.
Imports neither torch nor diffusers, so a request can be checked before anything heavy is loaded.

A sampler is a *method* on a *schedule*. The method is how a step is taken (`DPM++ 2M`); the schedule is which
noise levels the steps go through (`karras`). A method named alone runs on the model's own levels, as diffusers
sets them; `automatic` means what AUTOMATIC1111's web UI means by it since 1.9: the schedule that goes with the
method.

The mapping from AUTOMATIC1111's names follows the table in diffusers' documentation
(https://huggingface.co/docs/diffusers/api/schedulers/overview); `DPM++ SDE`, which that table maps to a
scheduler with Brownian-tree noise, is the single-step SDE solver here, because a sampler must be linear in
its noises to become a table.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

__all__ = [
    "AUTOMATIC",
    "PAIRS",
    "SAMPLERS",
    "SCHEDULES",
    "Sampler",
    "Schedule",
    "UnknownSampler",
    "UnknownSchedule",
    "find_sampler",
    "find_schedule",
    "is_sampler",
    "is_schedule",
    "with_schedule",
]

AUTOMATIC = "automatic"
_LONGEST_NAME = 60


class UnknownSampler(ValueError):
    """No sampler goes by that name; the message names the nearest ones."""


class UnknownSchedule(ValueError):
    """No schedule goes by that name, or the sampler cannot run on it; the message says what is allowed."""


@dataclass(frozen=True)
class Schedule:
    """A rule for noise levels; its formula is in `engine/schedules.py`.

    Attributes:
        name: what jobs write.
        label: how AUTOMATIC1111 writes it, and images' generation data with it.
        aliases: other names of it, and of schedules that come out the same.
        switch: the configuration key of the diffusers schedulers that have the rule built in.
    """

    name: str
    label: str
    aliases: tuple[str, ...] = ()
    switch: str = ""


SCHEDULES: Mapping[str, Schedule] = MappingProxyType(
    {
        schedule.name: schedule
        for schedule in (
            Schedule("uniform", "Uniform", ("normal",)),
            Schedule("karras", "Karras", switch="use_karras_sigmas"),
            # A1111's polyexponential has rho 1 unless its settings say otherwise, which makes it this one.
            Schedule("exponential", "Exponential", ("polyexponential",), switch="use_exponential_sigmas"),
            Schedule("sgm_uniform", "SGM Uniform"),
            Schedule("kl_optimal", "KL Optimal"),
            Schedule("align_your_steps", "Align Your Steps", ("ays",)),
            Schedule("simple", "Simple"),
            Schedule("ddim", "DDIM", ("ddim_uniform",)),
            Schedule("beta", "Beta", switch="use_beta_sigmas"),
            Schedule("turbo", "Turbo", ("sd_turbo",)),
        )
    }
)
"""Every schedule on offer, by name. `automatic` is none of them: it chooses one."""


@dataclass(frozen=True)
class Sampler:
    """A method on a schedule: what it is called, and what to build for it.

    Attributes:
        name: the canonical name of the pair, `DPM++ 2M Karras`.
        scheduler: class name in `diffusers`.
        config: what is set on top of the model's own scheduler configuration.
        aliases: other names users give it; case and punctuation are ignored.
        method: its name without the schedule.
        schedule: a name in `SCHEDULES`; None: the model's own noise levels.
        levels: set where the scheduler must be given the schedule's noise levels, having no switch for them.
        automatic: the schedule that goes with the method; None: the model's own levels.
    """

    name: str
    scheduler: str
    config: Mapping[str, object] = field(default_factory=dict, hash=False)
    aliases: tuple[str, ...] = ()
    method: str = ""
    schedule: str | None = None
    levels: str | None = None
    automatic: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", self.method or self.name)

    @property
    def order(self) -> int:
        """UNet evaluations of a step, as those who count steps in prompts count them."""
        return 2 if self.scheduler in _SECOND_ORDER else 1


_SECOND_ORDER = ("HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler")
_SDE = {"algorithm_type": "sde-dpmsolver++"}
_DPMPP = {"algorithm_type": "dpmsolver++"}

_METHODS: tuple[Sampler, ...] = (
    Sampler(
        "DPM++ 2M",
        "DPMSolverMultistepScheduler",
        _DPMPP,
        ("DPM-M", "DPMSolverMultistep", "DPM Solver++"),
        automatic="karras",
    ),
    Sampler("DPM++ 2M SDE", "DPMSolverMultistepScheduler", _SDE, automatic="exponential"),
    Sampler(
        "DPM++ 2M SDE Heun",
        "DPMSolverMultistepScheduler",
        {**_SDE, "solver_type": "heun"},
        automatic="exponential",
    ),
    Sampler(
        "DPM++ 3M SDE", "DPMSolverMultistepScheduler", {**_SDE, "solver_order": 3}, automatic="exponential"
    ),
    Sampler(
        "DPM++ 2S",
        "DPMSolverSinglestepScheduler",
        _DPMPP,
        ("DPM-S", "DPMSolverSinglestep", "DPM++ 2S a", "DPM++ 2S Ancestral"),
        automatic="karras",
    ),
    Sampler("DPM++ SDE", "DPMSolverSinglestepScheduler", _SDE, automatic="karras"),
    Sampler("Euler", "EulerDiscreteScheduler", {}, ("EULER-D", "EulerDiscrete")),
    Sampler(
        "Euler a",
        "EulerAncestralDiscreteScheduler",
        {},
        ("EULER-A", "Euler Ancestral", "EulerAncestralDiscrete"),
    ),
    Sampler("Heun", "HeunDiscreteScheduler", {}, ("HeunDiscrete",)),
    Sampler("DPM2", "KDPM2DiscreteScheduler", {}, ("KDPM2-D", "KDPM2Discrete"), automatic="karras"),
    Sampler(
        "DPM2 a",
        "KDPM2AncestralDiscreteScheduler",
        {},
        ("KDPM2-A", "DPM2 Ancestral", "KDPM2AncestralDiscrete"),
        automatic="karras",
    ),
    Sampler("LMS", "LMSDiscreteScheduler", {}, ("K-LMS", "LMSDiscrete")),
    Sampler("DDIM", "DDIMScheduler"),
    Sampler("DDPM", "DDPMScheduler"),
    Sampler("PNDM", "PNDMScheduler", {}, ("PLMS",)),
    Sampler("IPNDM", "IPNDMScheduler"),
    Sampler("DEIS", "DEISMultistepScheduler", {}, ("DEISMultistep",)),
    Sampler("UniPC", "UniPCMultistepScheduler", {}, ("UniPCMultistep",)),
    Sampler("LCM", "LCMScheduler"),
    Sampler("TCD", "TCDScheduler"),
)

# The pairs that had names of their own before the web UI took schedules apart; diffusers has switches for them.
_LISTED: Mapping[str, tuple[str, ...]] = {
    "karras": (
        "DPM++ 2M", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE", "DPM++ 2S", "DPM++ SDE", "Euler",
        "Heun", "DPM2", "DPM2 a", "LMS", "DEIS", "UniPC",
    ),
    "exponential": ("DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE"),
}  # fmt: skip
_MORE_ALIASES = {"DPM++ 2M Karras": ("KarrasDPM",)}

_NO_SWITCHES = ("EulerAncestralDiscreteScheduler", "DDPMScheduler", "LCMScheduler")
_EVENLY_SPACED = ("sgm_uniform", "turbo")


def _pair(method: Sampler, schedule: Schedule) -> Sampler | None:
    """A method on a schedule; None where diffusers' class cannot do it."""
    pair = replace(
        method,
        name=f"{method.name} {schedule.label}",
        aliases=(
            *(f"{name} {label}" for name in method.aliases for label in (schedule.label,)),
            *(f"{name} {label}" for name in (method.name, *method.aliases) for label in schedule.aliases),
            *_MORE_ALIASES.get(f"{method.name} {schedule.label}", ()),
        ),
        schedule=schedule.name,
    )
    match method.scheduler:
        case "IPNDMScheduler" | "TCDScheduler":
            return None
        case "DDIMScheduler" | "PNDMScheduler" if schedule.name == "uniform":
            # Evenly spaced timesteps are what they step through anyway, in the web UI too.
            return pair
        case "DDIMScheduler":
            # DDIM without noise is Euler's method in other units (arXiv 2206.00364, section 4 and appendix C).
            return replace(pair, scheduler="EulerDiscreteScheduler", levels=schedule.name)
        case "PNDMScheduler":
            spaced = {**method.config, "timestep_spacing": "trailing"}
            return replace(pair, config=spaced) if schedule.name in _EVENLY_SPACED else None
    if schedule.switch and method.scheduler not in _NO_SWITCHES:
        return replace(pair, config={**method.config, schedule.switch: True})
    return replace(pair, levels=schedule.name)


def _all_pairs() -> Iterator[Sampler]:
    for method in _METHODS:
        yield method
        yield from filter(None, (_pair(method, schedule) for schedule in SCHEDULES.values()))


PAIRS: Mapping[str, Sampler] = MappingProxyType({sampler.name: sampler for sampler in _all_pairs()})
"""Every sampler there is, by canonical name: each method alone, and on each schedule that it can run on."""


def _listed() -> Iterator[Sampler]:
    for method in _METHODS:
        yield method
        for schedule, methods in _LISTED.items():
            if method.name in methods:
                yield PAIRS[f"{method.name} {SCHEDULES[schedule].label}"]


SAMPLERS: Mapping[str, Sampler] = MappingProxyType({sampler.name: sampler for sampler in _listed()})
"""The samplers to choose from, by canonical name: the methods, and the pairs with names that people know."""


def is_sampler(name: str) -> bool:
    """Whether a sampler goes by that name."""
    return _key(name) in _BY_ALIAS


def is_schedule(name: str) -> bool:
    """Whether a schedule goes by that name; `AUTOMATIC` counts."""
    return _key(name) in _SCHEDULE_BY_ALIAS


def find_sampler(name: str) -> Sampler:
    """The sampler a user means, with or without a schedule in its name; case and punctuation do not matter.

    Raises:
        UnknownSampler: naming the nearest samplers.
    """
    found = _BY_ALIAS.get(_key(name))
    if found is None:
        raise UnknownSampler(f"is not a sampler; {_nearest(name)}")
    return found


def find_schedule(name: str) -> str:
    """The schedule a user means, or `AUTOMATIC`; case and punctuation do not matter.

    Raises:
        UnknownSchedule: listing them all.
    """
    found = _SCHEDULE_BY_ALIAS.get(_key(name))
    if found is None:
        raise UnknownSchedule(f"is not a schedule; allowed: {', '.join((AUTOMATIC, *SCHEDULES))}")
    return found


def with_schedule(sampler: Sampler, schedule: str) -> Sampler:
    """A sampler on a schedule, or on the one that goes with it for `AUTOMATIC`.

    Args:
        schedule: as `find_schedule` returns it.

    Raises:
        UnknownSchedule: the sampler cannot run on it, or its name says another.
    """
    if schedule == AUTOMATIC:
        if sampler.schedule or not sampler.automatic:
            return sampler
        schedule = sampler.automatic
    if sampler.schedule not in (None, schedule):
        raise UnknownSchedule(
            f"is another schedule than {sampler.name} has in its name; leave one of them out"
        )
    found = PAIRS.get(f"{sampler.method} {SCHEDULES[schedule].label}")
    if found is None:
        can = [pair.schedule for pair in PAIRS.values() if pair.method == sampler.method and pair.schedule]
        raise UnknownSchedule(f"cannot be had with {sampler.method}; allowed: {', '.join((AUTOMATIC, *can))}")
    return found


def _key(name: str) -> str:
    return _normalise(name[: 2 * _LONGEST_NAME])


def _normalise(name: str) -> str:
    """Letters and digits alone, with k-diffusion's `pp` for `++` left out like the signs themselves."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("dpmpp", "dpm"))


def _nearest(name: str, count: int = 3) -> str:
    """The samplers whose names are most like `name`, of which the beginning is enough to tell."""
    wanted = _normalise(name[:_LONGEST_NAME])
    close = difflib.get_close_matches(wanted, _LISTED_BY_ALIAS, n=len(_LISTED_BY_ALIAS), cutoff=0.5)
    names = list(dict.fromkeys(_LISTED_BY_ALIAS[alias].name for alias in close))[:count]
    if names:
        return f"the nearest {'are' if len(names) > 1 else 'is'} {', '.join(names)}"
    return f"there are {', '.join(method.name for method in _METHODS)}"


def _index(samplers: Iterable[Sampler]) -> dict[str, Sampler]:
    """Normalised name → sampler: canonical names, aliases and diffusers' class names, each in all spellings.

    A class name means the first sampler declared with that class, which has the model's own noise levels.

    Raises:
        ValueError: two samplers claim one name (a mistake in the catalogue above).
    """
    index: dict[str, Sampler] = {}
    samplers = tuple(samplers)
    for sampler in samplers:
        for name in (sampler.name, *sampler.aliases):
            for key in _spellings(name):
                if index.setdefault(key, sampler) is not sampler:
                    raise ValueError(f"{name!r} is claimed by {index[key].name} and by {sampler.name}")
    for sampler in (*SAMPLERS.values(), *samplers):
        label = SCHEDULES[sampler.schedule].label if sampler.schedule else ""
        index.setdefault(_normalise(f"{sampler.scheduler} {label}"), sampler)
    return index


def _spellings(name: str) -> Iterator[str]:
    """A name as it is, and as k-diffusion and its users write it: `sample_lms`, `k_lms`, `k_lms_ka`."""
    key = _normalise(name)
    short = key.replace("polyexponential", "polyexp").replace("exponential", "exp").replace("karras", "ka")
    for spelling in {key, short}:
        yield from (spelling, f"k{spelling}", f"sample{spelling}")


_BY_ALIAS = _index(PAIRS.values())
_LISTED_BY_ALIAS = _index(SAMPLERS.values())
_SCHEDULE_BY_ALIAS = {
    _normalise(name): schedule.name
    for schedule in SCHEDULES.values()
    for name in (schedule.name, schedule.label, *schedule.aliases)
} | {AUTOMATIC: AUTOMATIC}
