"""Names of samplers, and the diffusers scheduler and configuration each one stands for.

Declared once: validation, documentation and the engine's tables (`tables.py`) all read this catalogue.
Imports neither torch nor diffusers, so a request can be checked before anything heavy is loaded.

The mapping from AUTOMATIC1111's names follows the table in diffusers' documentation
(https://huggingface.co/docs/diffusers/api/schedulers/overview); `DPM++ SDE`, which that table maps to a
scheduler with Brownian-tree noise, is the single-step SDE solver here, because a sampler must be linear in
its noises to become a table.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["SAMPLERS", "Sampler", "UnknownSampler", "find_sampler"]


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


_KARRAS = {"use_karras_sigmas": True}
_SDE = {"algorithm_type": "sde-dpmsolver++"}
_DPMPP = {"algorithm_type": "dpmsolver++"}


def _with_karras(plain: Sampler) -> tuple[Sampler, Sampler]:
    """A sampler and its twin on Karras et al.'s noise levels (arXiv 2206.00364, eq. 5)."""
    twin = Sampler(
        name=f"{plain.name} Karras",
        scheduler=plain.scheduler,
        config={**plain.config, **_KARRAS},
        aliases=tuple(f"{alias} Karras" for alias in plain.aliases),
    )
    return plain, twin


_DECLARED: tuple[Sampler, ...] = (
    *_with_karras(
        Sampler(
            "DPM++ 2M",
            "DPMSolverMultistepScheduler",
            _DPMPP,
            ("DPM-M", "DPMSolverMultistep", "DPM Solver++", "dpmsolver++", "KarrasDPM++"),
        )
    ),
    *_with_karras(Sampler("DPM++ 2M SDE", "DPMSolverMultistepScheduler", _SDE)),
    *_with_karras(Sampler("DPM++ 3M SDE", "DPMSolverMultistepScheduler", {**_SDE, "solver_order": 3})),
    *_with_karras(
        Sampler(
            "DPM++ 2S",
            "DPMSolverSinglestepScheduler",
            _DPMPP,
            ("DPM-S", "DPMSolverSinglestep", "DPM++ 2S a"),
        )
    ),
    *_with_karras(Sampler("DPM++ SDE", "DPMSolverSinglestepScheduler", _SDE)),
    *_with_karras(Sampler("Euler", "EulerDiscreteScheduler", {}, ("EULER-D", "k_euler", "EulerDiscrete"))),
    Sampler(
        "Euler a",
        "EulerAncestralDiscreteScheduler",
        {},
        ("EULER-A", "Euler Ancestral", "k_euler_a", "k_euler_ancestral", "EulerAncestralDiscrete"),
    ),
    *_with_karras(Sampler("Heun", "HeunDiscreteScheduler", {}, ("k_heun", "HeunDiscrete"))),
    *_with_karras(
        Sampler("DPM2", "KDPM2DiscreteScheduler", {}, ("KDPM2-D", "KDPM2", "k_dpm_2", "KDPM2Discrete"))
    ),
    *_with_karras(
        Sampler(
            "DPM2 a",
            "KDPM2AncestralDiscreteScheduler",
            {},
            ("KDPM2-A", "DPM2 Ancestral", "k_dpm_2_a", "k_dpm_2_ancestral", "KDPM2AncestralDiscrete"),
        )
    ),
    *_with_karras(Sampler("LMS", "LMSDiscreteScheduler", {}, ("K-LMS", "KLMS", "k_lms", "LMSDiscrete"))),
    Sampler("DDIM", "DDIMScheduler"),
    Sampler("DDPM", "DDPMScheduler"),
    Sampler("PNDM", "PNDMScheduler", {}, ("PLMS",)),
    Sampler("IPNDM", "IPNDMScheduler"),
    *_with_karras(Sampler("DEIS", "DEISMultistepScheduler", {}, ("DEISMultistep",))),
    *_with_karras(Sampler("UniPC", "UniPCMultistepScheduler", {}, ("UniPCMultistep", "unipc"))),
    Sampler("LCM", "LCMScheduler"),
    Sampler("TCD", "TCDScheduler"),
)

SAMPLERS: Mapping[str, Sampler] = MappingProxyType({sampler.name: sampler for sampler in _DECLARED})
"""Every sampler on offer, by canonical name."""


def find_sampler(name: str) -> Sampler:
    """The sampler a user means; case and punctuation do not matter.

    Raises:
        UnknownSampler: naming the nearest samplers and where all of them are listed.
    """
    found = _BY_ALIAS.get(_normalise(name))
    if found is None:
        raise UnknownSampler(f"is not a sampler; the nearest are {_nearest(name)}")
    return found


def _normalise(name: str) -> str:
    """Letters and digits alone, with k-diffusion's `pp` for `++` left out like the signs themselves."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("dpmpp", "dpm"))


def _nearest(name: str, count: int = 3) -> str:
    close = difflib.get_close_matches(_normalise(name), _BY_ALIAS, n=count * 3, cutoff=0.0)
    names = dict.fromkeys(_BY_ALIAS[alias].name for alias in close)
    return ", ".join(list(names)[:count])


def _index() -> dict[str, Sampler]:
    """Normalised name → sampler, for canonical names, aliases and diffusers' class names.

    A class name means the first sampler declared with that class and no Karras sigmas.

    Raises:
        ValueError: two samplers claim one name (a mistake in the catalogue above).
    """
    index: dict[str, Sampler] = {}
    for sampler in _DECLARED:
        for name in (sampler.name, *sampler.aliases):
            key = _normalise(name)
            if index.setdefault(key, sampler) is not sampler:
                raise ValueError(f"{name!r} is claimed by {index[key].name} and by {sampler.name}")
    for sampler in _DECLARED:
        index.setdefault(_normalise(sampler.scheduler), sampler)
    return index


_BY_ALIAS = _index()
