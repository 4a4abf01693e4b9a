"""Every name that users of the peers write finds its sampler; every other is refused with near ones."""

import re
from contextlib import suppress
from inspect import signature
from itertools import pairwise

import diffusers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdworker.samplers import (
    AUTOMATIC,
    PAIRS,
    SAMPLERS,
    SCHEDULES,
    Sampler,
    UnknownSampler,
    UnknownSchedule,
    find_sampler,
    find_schedule,
    with_schedule,
)

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


@pytest.mark.parametrize("sampler", PAIRS.values(), ids=lambda sampler: sampler.name)
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
        "DDIM CFG++",
        "k_dpm_fast",
        "k_dpm_ad",
        "DPMSolverSDEScheduler",
        "IPNDM Karras",
        "PLMS Exponential",
    ],
)
def test_what_is_no_table_is_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(
        UnknownSampler, match=r"is not a sampler; (the nearest (are|is)|there are) "
    ) as refusal:
        find_sampler(name)
    named = re.split(", ", re.sub("^.*(are|is) ", "", str(refusal.value)))
    assert set(named) <= SAMPLERS.keys()


@pytest.mark.parametrize(
    ("name", "meant"),
    [("Eular a", "Euler a"), ("DPM++ 2M Karas", "DPM++ 2M Karras"), ("DDIMM", "DDIM"), ("uniPCC", "UniPC")],
)
def test_the_first_name_of_a_refusal_is_the_one_that_was_meant(name: str, meant: str) -> None:
    with pytest.raises(UnknownSampler, match=f"the nearest (are|is) {meant.replace('+', '[+]')}(,|$)"):
        find_sampler(name)


@given(st.text(max_size=80))
def test_any_text_is_a_sampler_or_refused(name: str) -> None:
    with suppress(UnknownSampler):
        assert find_sampler(name) in PAIRS.values()


@pytest.mark.parametrize(
    "name", ["", "++", "a" * 1_000_000, "\ud800", "\0"], ids=["empty", "signs", "long", "half", "nul"]
)
def test_odd_text_is_refused(name: str) -> None:
    with pytest.raises(UnknownSampler):
        find_sampler(name)


class TestSchedules:
    """AUTOMATIC1111's sampling methods and schedule types, as its web UI 1.9 lists them."""

    METHODS = (
        "DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 2S a", "DPM++ 3M SDE", "Euler a",
        "Euler", "LMS", "Heun", "DPM2", "DPM2 a", "DPM fast", "DPM adaptive", "Restart", "DDIM", "PLMS", "UniPC",
        "LCM",
    )  # fmt: skip
    TYPES = ("Automatic", "Uniform", "Karras", "Exponential", "Polyexponential", "SGM Uniform")

    def can(self, method: str, schedule: str) -> bool:
        try:
            with_schedule(find_sampler(method), find_schedule(schedule))
        except (UnknownSampler, UnknownSchedule):
            return False
        return True

    def test_93_of_its_114_pairs_are_to_be_had(self) -> None:
        refused = [(m, t) for m in self.METHODS for t in self.TYPES if not self.can(m, t)]
        assert len(self.METHODS) * len(self.TYPES) - len(refused) == 93
        assert {method for method, _ in refused} == {"DPM fast", "DPM adaptive", "Restart", "PLMS"}

    @pytest.mark.parametrize(
        ("method", "meant"),
        [
            ("DPM++ 2M", "DPM++ 2M Karras"),
            ("DPM++ SDE", "DPM++ SDE Karras"),
            ("DPM++ 2M SDE", "DPM++ 2M SDE Exponential"),
            ("DPM++ 2M SDE Heun", "DPM++ 2M SDE Heun Exponential"),
            ("DPM++ 2S a", "DPM++ 2S Karras"),
            ("DPM++ 3M SDE", "DPM++ 3M SDE Exponential"),
            ("DPM2", "DPM2 Karras"),
            ("DPM2 a", "DPM2 a Karras"),
            ("Euler a", "Euler a"),
            ("Euler", "Euler"),
            ("LMS", "LMS"),
            ("Heun", "Heun"),
            ("DDIM", "DDIM"),
            ("PLMS", "PNDM"),
            ("UniPC", "UniPC"),
            ("LCM", "LCM"),
            ("DPM++ 2M SDE Karras", "DPM++ 2M SDE Karras"),
        ],
    )
    def test_automatic_is_the_schedule_that_goes_with_the_method(self, method: str, meant: str) -> None:
        assert with_schedule(find_sampler(method), AUTOMATIC).name == meant

    @pytest.mark.parametrize(
        ("written", "name"),
        [
            ("Karras", "karras"),
            ("SGM Uniform", "sgm_uniform"),
            ("SGMUniform", "sgm_uniform"),
            ("sgm-uniform", "sgm_uniform"),
            ("Normal", "uniform"),
            ("Polyexponential", "exponential"),
            ("KL Optimal", "kl_optimal"),
            ("Align Your Steps", "align_your_steps"),
            ("DDIM", "ddim"),
            ("automatic", AUTOMATIC),
            ("Automatic", AUTOMATIC),
        ],
    )
    def test_a_schedule_goes_by_the_web_uis_label_too(self, written: str, name: str) -> None:
        assert find_schedule(written) == name

    @pytest.mark.parametrize("name", ["", "karas", "none", "a" * 100_000, "\ud800", "Karras Exponential"])
    def test_any_other_is_refused_with_all_there_are(self, name: str) -> None:
        with pytest.raises(UnknownSchedule, match="is not a schedule; allowed: automatic, uniform, karras, "):
            find_schedule(name)

    @pytest.mark.parametrize("pair", PAIRS.values(), ids=lambda pair: pair.name)
    def test_a_pair_is_one_whichever_way_it_is_said(self, pair: Sampler) -> None:
        method = find_sampler(pair.method)
        assert find_sampler(pair.name) is pair
        if pair.schedule is not None:
            assert with_schedule(method, pair.schedule) is pair
            assert with_schedule(pair, pair.schedule) is pair
            assert find_sampler(f"{pair.method} {SCHEDULES[pair.schedule].label}".upper()) is pair

    def test_two_schedules_for_one_sampler_are_refused(self) -> None:
        with pytest.raises(UnknownSchedule, match=r"another schedule than DPM\+\+ 2M Karras has in its name"):
            with_schedule(find_sampler("DPM++ 2M Karras"), "exponential")

    def test_what_a_sampler_cannot_run_on_is_refused_with_what_it_can(self) -> None:
        with pytest.raises(UnknownSchedule, match=r"PNDM; allowed: automatic, uniform, sgm_uniform, turbo$"):
            with_schedule(find_sampler("PLMS"), "karras")
        with pytest.raises(UnknownSchedule, match=r"IPNDM; allowed: automatic$"):
            with_schedule(find_sampler("IPNDM"), "karras")
