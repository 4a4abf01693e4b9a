"""Every name that users of the peers write finds its sampler; every other is refused with near ones."""

from contextlib import suppress
from inspect import signature
from itertools import pairwise

import diffusers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdworker.samplers import SAMPLERS, Sampler, UnknownSampler, find_sampler

V1_WORKER = {
    "DDIM": "DDIM",
    "DDPM": "DDPM",
    "DPM-M": "DPM++ 2M",
    "DPM-S": "DPM++ 2S",
    "EULER-A": "Euler a",
    "EULER-D": "Euler",
    "HEUN": "Heun",
    "IPNDM": "IPNDM",
    "KDPM2-A": "DPM2 a",
    "KDPM2-D": "DPM2",
    "PNDM": "PNDM",
    "K-LMS": "LMS",
    "KLMS": "LMS",
}
COG_AND_WORKER_SDXL = {
    "DDIM": "DDIM",
    "PNDM": "PNDM",
    "KLMS": "LMS",
    "K_EULER": "Euler",
    "K_EULER_ANCESTRAL": "Euler a",
    "DPMSolverMultistep": "DPM++ 2M",
    "DPMSolverSinglestep": "DPM++ 2S",
    "HeunDiscrete": "Heun",
    "KarrasDPM": "DPM++ 2M Karras",
}
AUTOMATIC1111 = {
    "DPM++ 2M": "DPM++ 2M",
    "DPM++ SDE": "DPM++ SDE",
    "DPM++ 2M SDE": "DPM++ 2M SDE",
    "DPM++ 2M SDE Heun": "DPM++ 2M SDE Heun",
    "DPM++ 2S a": "DPM++ 2S",
    "DPM++ 3M SDE": "DPM++ 3M SDE",
    "Euler a": "Euler a",
    "Euler": "Euler",
    "LMS": "LMS",
    "Heun": "Heun",
    "DPM2": "DPM2",
    "DPM2 a": "DPM2 a",
    "DDIM": "DDIM",
    "PLMS": "PNDM",
    "UniPC": "UniPC",
    "LCM": "LCM",
    "DPM++ 2M Karras": "DPM++ 2M Karras",
    "DPM++ SDE Karras": "DPM++ SDE Karras",
    "DPM++ 2M SDE Karras": "DPM++ 2M SDE Karras",
    "DPM++ 2M SDE Exponential": "DPM++ 2M SDE Exponential",
    "DPM++ 2M SDE Heun Karras": "DPM++ 2M SDE Heun Karras",
    "DPM++ 2M SDE Heun Exponential": "DPM++ 2M SDE Heun Exponential",
    "DPM++ 2S a Karras": "DPM++ 2S Karras",
    "DPM++ 3M SDE Karras": "DPM++ 3M SDE Karras",
    "DPM++ 3M SDE Exponential": "DPM++ 3M SDE Exponential",
    "LMS Karras": "LMS Karras",
    "DPM2 Karras": "DPM2 Karras",
    "DPM2 a Karras": "DPM2 a Karras",
}
K_DIFFUSION = {
    "k_euler": "Euler",
    "k_euler_a": "Euler a",
    "k_euler_ancestral": "Euler a",
    "k_heun": "Heun",
    "k_lms": "LMS",
    "k_lms_ka": "LMS Karras",
    "k_dpm_2": "DPM2",
    "k_dpm_2_a": "DPM2 a",
    "k_dpm_2_ancestral": "DPM2 a",
    "k_dpm_2_a_ka": "DPM2 a Karras",
    "k_dpmpp_2m": "DPM++ 2M",
    "k_dpmpp_2m_ka": "DPM++ 2M Karras",
    "k_dpmpp_2s_a": "DPM++ 2S",
    "k_dpmpp_sde": "DPM++ SDE",
    "k_dpmpp_2m_sde": "DPM++ 2M SDE",
    "k_dpmpp_2m_sde_exp": "DPM++ 2M SDE Exponential",
    "k_dpmpp_3m_sde": "DPM++ 3M SDE",
    "sample_euler_ancestral": "Euler a",
    "sample_dpmpp_2m": "DPM++ 2M",
    "sample_dpmpp_2s_ancestral": "DPM++ 2S",
    "sample_lms": "LMS",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "uni_pc": "UniPC",
}
PEERS = [
    pytest.param(names, id=peer)
    for peer, names in {
        "worker-stable_diffusion_v1": V1_WORKER,
        "cog and worker-sdxl": COG_AND_WORKER_SDXL,
        "AUTOMATIC1111": AUTOMATIC1111,
        "k-diffusion": K_DIFFUSION,
    }.items()
]


@pytest.mark.parametrize("names", PEERS)
def test_every_name_of_a_peer_finds_its_sampler(names: dict[str, str]) -> None:
    assert {name: find_sampler(name).name for name in names} == names


@pytest.mark.parametrize("scheduler", sorted({sampler.scheduler for sampler in SAMPLERS.values()}))
def test_a_diffusers_class_name_means_that_class_on_the_models_own_noise_levels(scheduler: str) -> None:
    for name in (scheduler, scheduler.removesuffix("Scheduler")):
        found = find_sampler(name)
        assert found.scheduler == scheduler
        assert "use_karras_sigmas" not in found.config


def test_a_class_name_with_karras_means_its_twin() -> None:
    assert find_sampler("DPMSolverMultistepScheduler Karras").name == "DPM++ 2M Karras"


@given(st.data())
def test_case_and_punctuation_do_not_matter(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(list(SAMPLERS)))
    marks = data.draw(st.lists(st.sampled_from(["", " ", "-", "_", "+", "."]), min_size=len(name)))
    upper = data.draw(st.lists(st.booleans(), min_size=len(name), max_size=len(name)))
    written = "".join(
        (letter.upper() if up else letter.lower()) + mark
        for letter, mark, up in zip(name, marks, upper, strict=False)
    )
    assert find_sampler(written) is SAMPLERS[name]


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=lambda sampler: sampler.name)
def test_every_sampler_is_a_class_of_diffusers_that_knows_its_configuration(sampler: Sampler) -> None:
    known = signature(getattr(diffusers, sampler.scheduler)).parameters
    assert sampler.config.keys() <= known.keys()


def test_no_two_samplers_are_the_same() -> None:
    kinds = sorted((sampler.scheduler, sorted(sampler.config.items())) for sampler in SAMPLERS.values())
    assert all(one != other for one, other in pairwise(kinds))


@pytest.mark.parametrize(
    "name",
    [
        "DPM fast",
        "DPM adaptive",
        "Restart",
        "k_dpm_fast",
        "k_dpm_ad",
        "DPMSolverSDEScheduler",
        "Euler a Karras",
    ],
)
def test_what_is_no_table_is_refused_with_near_names(name: str) -> None:
    with pytest.raises(UnknownSampler, match="is not a sampler; the nearest are ") as refusal:
        find_sampler(name)
    near = str(refusal.value).removeprefix("is not a sampler; the nearest are ").split(", ")
    assert len(set(near)) == 3
    assert set(near) <= SAMPLERS.keys()


@pytest.mark.parametrize(
    ("name", "meant"),
    [("Eular a", "Euler a"), ("DPM++ 2M Karas", "DPM++ 2M Karras"), ("DDIMM", "DDIM"), ("uniPCC", "UniPC")],
)
def test_the_first_name_of_a_refusal_is_the_one_that_was_meant(name: str, meant: str) -> None:
    with pytest.raises(UnknownSampler, match=f"the nearest are {meant.replace('+', '[+]')}(,|$)"):
        find_sampler(name)


@given(st.text(max_size=80))
def test_any_text_is_a_sampler_or_refused(name: str) -> None:
    with suppress(UnknownSampler):
        assert find_sampler(name) in SAMPLERS.values()


@pytest.mark.parametrize(
    "name", ["", "++", "a" * 1_000_000, "\ud800", "\0"], ids=["empty", "signs", "long", "half", "nul"]
)
def test_odd_text_is_refused(name: str) -> None:
    with pytest.raises(UnknownSampler):
        find_sampler(name)
