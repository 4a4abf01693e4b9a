"""Names of samplers, and the diffusers scheduler and configuration each one stands for.

Declared once: validation, documentation and the engine's tables (`engine/tables.py`) all read this catalogue.
Imports neither torch nor diffusers, so a request can be checked before anything heavy is loaded.

The mapping from AUTOMATIC1111's names follows the table in diffusers' documentation
(https://huggingface.co/docs/diffusers/api/schedulers/overview); `DPM++ SDE`, which that table maps to a
scheduler with Brownian-tree noise, is the single-step SDE solver here, because a sampler must be linear in
its noises to become a table.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["SAMPLERS", "Sampler", "UnknownSampler", "find_sampler"]


_LONGEST_NAME = 60


class UnknownSampler(ValueError):
    """No sampler goes by that name; the message names the nearest ones."""


@dataclass(frozen=True)
class Sampler:
    """A sampler on offer: what it is called, and what to build for it.

    Attributes:
        name: the canonical name, as it is written into an image's generation data.
        scheduler: class name in `diffusers`.
        config: what is set on top of the model's own scheduler configuration.
        aliases: other names users give it; case and punctuation are ignored.
    """

    name: str
    scheduler: str
    config: Mapping[str, object] = field(default_factory=dict, hash=False)
    aliases: tuple[str, ...] = ()


_SDE = {"algorithm_type": "sde-dpmsolver++"}
_DPMPP = {"algorithm_type": "dpmsolver++"}


def _twin(plain: Sampler, levels: str, *aliases: str) -> Sampler:
    """A sampler on other noise levels than the model's own, `Karras` say."""
    return Sampler(
        name=f"{plain.name} {levels}",
        scheduler=plain.scheduler,
        config={**plain.config, f"use_{levels.lower()}_sigmas": True},
        aliases=(*(f"{alias} {levels}" for alias in plain.aliases), *aliases),
    )


def _with_karras(plain: Sampler, *aliases: str) -> tuple[Sampler, Sampler]:
    """A sampler and its twin on Karras et al.'s noise levels (arXiv 2206.00364, eq. 5), which has `aliases`."""
    return plain, _twin(plain, "Karras", *aliases)


def _with_exponential(plain: Sampler) -> tuple[Sampler, Sampler, Sampler]:
    """A sampler and its twins on Karras et al.'s and on exponential noise levels."""
    return *_with_karras(plain), _twin(plain, "Exponential")


_DECLARED: tuple[Sampler, ...] = (
    *_with_karras(
        Sampler(
            "DPM++ 2M",
            "DPMSolverMultistepScheduler",
            _DPMPP,
            ("DPM-M", "DPMSolverMultistep", "DPM Solver++"),
        ),
        "KarrasDPM",
    ),
    *_with_exponential(Sampler("DPM++ 2M SDE", "DPMSolverMultistepScheduler", _SDE)),
    *_with_exponential(
        Sampler("DPM++ 2M SDE Heun", "DPMSolverMultistepScheduler", {**_SDE, "solver_type": "heun"})
    ),
    *_with_exponential(Sampler("DPM++ 3M SDE", "DPMSolverMultistepScheduler", {**_SDE, "solver_order": 3})),
    *_with_karras(
        Sampler(
            "DPM++ 2S",
            "DPMSolverSinglestepScheduler",
            _DPMPP,
            ("DPM-S", "DPMSolverSinglestep", "DPM++ 2S a", "DPM++ 2S Ancestral"),
        )
    ),
    *_with_karras(Sampler("DPM++ SDE", "DPMSolverSinglestepScheduler", _SDE)),
    *_with_karras(Sampler("Euler", "EulerDiscreteScheduler", {}, ("EULER-D", "EulerDiscrete"))),
    Sampler(
        "Euler a",
        "EulerAncestralDiscreteScheduler",
        {},
        ("EULER-A", "Euler Ancestral", "EulerAncestralDiscrete"),
    ),
    *_with_karras(Sampler("Heun", "HeunDiscreteScheduler", {}, ("HeunDiscrete",))),
    *_with_karras(Sampler("DPM2", "KDPM2DiscreteScheduler", {}, ("KDPM2-D", "KDPM2Discrete"))),
    *_with_karras(
        Sampler(
            "DPM2 a",
            "KDPM2AncestralDiscreteScheduler",
            {},
            ("KDPM2-A", "DPM2 Ancestral", "KDPM2AncestralDiscrete"),
        )
    ),
    *_with_karras(Sampler("LMS", "LMSDiscreteScheduler", {}, ("K-LMS", "LMSDiscrete"))),
    Sampler("DDIM", "DDIMScheduler"),
    Sampler("DDPM", "DDPMScheduler"),
    Sampler("PNDM", "PNDMScheduler", {}, ("PLMS",)),
    Sampler("IPNDM", "IPNDMScheduler"),
    *_with_karras(Sampler("DEIS", "DEISMultistepScheduler", {}, ("DEISMultistep",))),
    *_with_karras(Sampler("UniPC", "UniPCMultistepScheduler", {}, ("UniPCMultistep",))),
    Sampler("LCM", "LCMScheduler"),
    Sampler("TCD", "TCDScheduler"),
)

SAMPLERS: Mapping[str, Sampler] = MappingProxyType({sampler.name: sampler for sampler in _DECLARED})
"""Every sampler on offer, by canonical name."""


def find_sampler(name: str) -> Sampler:
    """The sampler a user means; case and punctuation do not matter.

    Raises:
        UnknownSampler: naming the nearest samplers.
    """
    found = _BY_ALIAS.get(_normalise(name))
    if found is None:
        raise UnknownSampler(f"is not a sampler; the nearest are {_nearest(name)}")
    return found


def _normalise(name: str) -> str:
    """Letters and digits alone, with k-diffusion's `pp` for `++` left out like the signs themselves."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("dpmpp", "dpm"))


def _nearest(name: str, count: int = 3) -> str:
    """The samplers whose names are most like `name`, of which the beginning is enough to tell."""
    wanted = _normalise(name[:_LONGEST_NAME])
    close = difflib.get_close_matches(wanted, _BY_ALIAS, n=len(_BY_ALIAS), cutoff=0.0)
    names = dict.fromkeys(_BY_ALIAS[alias].name for alias in close)
    return ", ".join(list(names)[:count])


def _index() -> dict[str, Sampler]:
    """Normalised name → sampler: canonical names, aliases and diffusers' class names, each in all spellings.

    A class name means the first sampler declared with that class, which has the model's own noise levels.

    Raises:
        ValueError: two samplers claim one name (a mistake in the catalogue above).
    """
    index: dict[str, Sampler] = {}
    for sampler in _DECLARED:
        for name in (sampler.name, *sampler.aliases):
            for key in _spellings(name):
                if index.setdefault(key, sampler) is not sampler:
                    raise ValueError(f"{name!r} is claimed by {index[key].name} and by {sampler.name}")
    for sampler in _DECLARED:
        levels = next((word for word in ("Karras", "Exponential") if sampler.name.endswith(word)), "")
        index.setdefault(_normalise(f"{sampler.scheduler} {levels}"), sampler)
    return index


def _spellings(name: str) -> Iterator[str]:
    """A name as it is, and as k-diffusion and its users write it: `sample_lms`, `k_lms`, `k_lms_ka`."""
    key = _normalise(name)
    short = key.replace("exponential", "exp").replace("karras", "ka")
    for spelling in {key, short}:
        yield from (spelling, f"k{spelling}", f"sample{spelling}")


_BY_ALIAS = _index()
