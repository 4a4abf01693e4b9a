"""Jobs written for other workers: what they say is understood, ignored where it says nothing, or refused."""

from typing import Any

import pytest

from sdworker.request import Contract, InputError, Request
from sdworker.request.peers import FOREIGN
from sdworker.settings import Settings

PICTURE = "data:image/png;base64,AA=="

TXT2IMG: dict[str, Any] = {
    "enable_hr": False, "denoising_strength": 0, "firstphase_width": 0, "firstphase_height": 0, "hr_scale": 2.0,
    "hr_upscaler": None, "hr_second_pass_steps": 0, "hr_resize_x": 0, "hr_resize_y": 0,
    "hr_checkpoint_name": None, "hr_sampler_name": None, "hr_scheduler": None, "hr_prompt": "",
    "hr_negative_prompt": "", "prompt": "a dog", "styles": None, "seed": -1, "subseed": -1, "subseed_strength": 0,
    "seed_resize_from_h": -1, "seed_resize_from_w": -1, "sampler_name": None, "scheduler": None, "batch_size": 1,
    "n_iter": 1, "steps": 20, "cfg_scale": 7.0, "width": 512, "height": 512, "restore_faces": False,
    "tiling": False, "do_not_save_samples": False, "do_not_save_grid": False, "negative_prompt": "", "eta": None,
    "s_min_uncond": 0.0, "s_churn": 0.0, "s_tmax": None, "s_tmin": 0.0, "s_noise": 1.0,
    "override_settings": None, "override_settings_restore_afterwards": True, "refiner_checkpoint": None,
    "refiner_switch_at": None, "disable_extra_networks": False, "firstpass_image": None, "comments": None,
    "script_args": [], "sampler_index": "Euler", "script_name": None, "send_images": True, "save_images": False,
    "alwayson_scripts": {}, "infotext": None, "force_task_id": None,
}  # fmt: skip
"""Every key of the web UI's text to image route, with its default."""

IMG2IMG: dict[str, Any] = {
    **{key: value for key, value in TXT2IMG.items() if not key.startswith(("hr_", "firstp", "enable"))},
    "init_images": [PICTURE], "resize_mode": 0, "image_cfg_scale": 1.5, "mask": None, "mask_blur_x": 4,
    "mask_blur_y": 4, "mask_blur": None, "mask_round": True, "inpainting_fill": 0, "inpaint_full_res": True,
    "inpaint_full_res_padding": 0, "inpainting_mask_invert": 0, "initial_noise_multiplier": None,
    "latent_mask": None, "include_init_images": False, "denoising_strength": 0.75,
}  # fmt: skip
"""Every key of its image to image route, with its default and one picture."""

SDXL = {
    "prompt": "a steampunk dragon", "negative_prompt": "blurry", "height": 1024, "width": 1024,
    "num_inference_steps": 25, "refiner_inference_steps": 50, "guidance_scale": 7.5, "strength": 0.3,
    "high_noise_frac": 0.8, "seed": 42, "scheduler": "K_EULER", "num_images": 1,
}  # fmt: skip
TURBO = {
    "prompt": "a majestic steampunk dragon", "negative_prompt": "blurry, low quality", "height": 512, "width": 512,
    "num_inference_steps": 1, "guidance_scale": 0.0, "seed": 1337, "num_images": 1,
}  # fmt: skip
COG_SDXL = {
    "width": 768, "height": 768, "prompt": "an astronaut", "refine": "no_refiner", "scheduler": "K_EULER",
    "lora_scale": 0.6, "num_outputs": 1, "guidance_scale": 7.5, "apply_watermark": True, "high_noise_frac": 0.8,
    "negative_prompt": "", "prompt_strength": 0.8, "num_inference_steps": 25, "disable_safety_checker": False,
    "refine_steps": None, "replicate_weights": None, "image": None, "mask": None, "seed": None,
}  # fmt: skip
V1 = {
    "prompt": "a dog", "negative_prompt": None, "width": 512, "height": 768, "init_image": None, "mask": None,
    "prompt_strength": 0.5, "num_outputs": 9, "num_inference_steps": 499, "guidance_scale": 20,
    "scheduler": "K-LMS", "seed": None, "nsfw": True, "lora": None, "lora_scale": 1,
}  # fmt: skip


def refusal(contract: Contract, **given: Any) -> str:
    with pytest.raises(InputError) as error:
        contract.parse({"prompt": "x", **given})
    return str(error.value)


@pytest.fixture
def v1(monkeypatch: pytest.MonkeyPatch) -> Contract:
    monkeypatch.setenv("V1_DEFAULTS", "1")
    return Contract(Settings(max_pixels=1024 * 1024), (64, 64))


@pytest.mark.parametrize(
    "job",
    [TXT2IMG, IMG2IMG, SDXL, {**SDXL, "image_url": None}, TURBO, COG_SDXL, V1],
    ids=["txt2img", "img2img", "sdxl", "sdxl without a picture", "turbo", "cog", "v1"],
)
def test_a_whole_job_with_every_key_runs_unchanged(contract: Contract, job: dict[str, Any]) -> None:
    before = dict(job)
    contract.parse(job)
    assert job == before


class TestWebUi:
    def test_sampler_index_counts_where_there_is_no_sampler_name(self, contract: Contract) -> None:
        assert contract.parse(TXT2IMG).scheduler == "Euler"
        assert contract.parse({**TXT2IMG, "sampler_name": "DDIM"}).scheduler == "DDIM"
        assert contract.parse({**TXT2IMG, "scheduler": "Karras"}).scheduler == "Euler Karras"

    def test_batches_of_images_are_images(self, contract: Contract) -> None:
        assert contract.parse({**TXT2IMG, "n_iter": 3, "batch_size": 2}).num_outputs == 6
        assert contract.parse({"prompt": "x", "n_iter": 3}).num_outputs == 3
        message = refusal(contract, n_iter=5, batch_size=4)
        assert message.startswith(
            "n_iter (num_outputs): 20 is out of range; allowed: a whole number from 1 to 16"
        )

    @pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "2", [1], 10**30])
    def test_a_number_of_batches_that_is_none_is_refused(self, contract: Contract, wrong: object) -> None:
        assert refusal(contract, n_iter=wrong).startswith("n_iter: ")

    def test_one_of_init_images_is_the_picture(self, contract: Contract) -> None:
        assert contract.parse(IMG2IMG).init_image == PICTURE
        assert contract.parse({**TXT2IMG, "init_images": []}).init_image is None
        assert refusal(contract, init_images=[PICTURE, PICTURE]) == (
            "init_images: a list of 2 is not allowed; allowed: a list of one picture"
        )
        assert refusal(contract, init_images=[5]).startswith("init_images (init_image): 5 is not allowed")

    @pytest.mark.parametrize(("mode", "resize"), [(0, "stretch"), (1, "crop"), (2, "fill")])
    def test_resize_mode_is_resize(self, contract: Contract, mode: int, resize: str) -> None:
        assert contract.parse({**IMG2IMG, "resize_mode": mode}).resize == resize

    @pytest.mark.parametrize("mode", [3, -1, True, "1", 1.5])
    def test_a_resize_mode_that_is_not_done_is_refused(self, contract: Contract, mode: object) -> None:
        assert "allowed: 0 (stretch), 1 (crop) or 2 (fill)" in refusal(contract, resize_mode=mode)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("restore_faces", True),
            ("tiling", True),
            ("styles", ["film"]),
            ("subseed_strength", 0.1),
            ("alwayson_scripts", {"ADetailer": {"args": [{}]}}),
            ("override_settings", {"sd_hypernetwork": "b"}),
            ("script_name", "X/Y/Z plot"),
            ("refiner_checkpoint", "refiner"),
            ("send_images", False),
            ("save_images", True),
            ("eta", 0.5),
            ("s_churn", 1),
            ("s_noise", 1.1),
            ("tiling", "false"),
            ("s_churn", False),
        ],
    )
    def test_what_asks_for_something_not_done_is_refused_by_name(
        self, contract: Contract, key: str, value: object
    ) -> None:
        message = refusal(contract, **{key: value})
        assert message.startswith(f"{key}: ")
        assert ", which this worker does not do; " in message

    @pytest.mark.parametrize(("layers", "skip"), [(1, 0), (2, 1), (12, 11)])
    def test_clip_skip_is_counted_from_one_there(self, contract: Contract, layers: int, skip: int) -> None:
        for given in (
            {"CLIP_stop_at_last_layers": layers},
            {"override_settings": {"CLIP_stop_at_last_layers": layers}},
            {"clip_skip": skip, "CLIP_stop_at_last_layers": layers},
        ):
            assert contract.parse({"prompt": "x", **given}).clip_skip == skip

    @pytest.mark.parametrize("layers", [0, -1, 33, 1.5, "2", True, [2]])
    def test_layers_that_are_no_count_are_refused(self, contract: Contract, layers: object) -> None:
        for prefix, given in (
            ("", {"CLIP_stop_at_last_layers": layers}),
            ("override_settings.", {"override_settings": {"CLIP_stop_at_last_layers": layers}}),
        ):
            message = refusal(contract, **given)
            assert message.startswith(f"{prefix}CLIP_stop_at_last_layers: ")
            assert message.endswith("allowed: a whole number from 1 to 32")

    def test_settings_that_change_nothing_are_ignored_and_others_named(self, contract: Contract) -> None:
        contract.parse({"prompt": "x", "override_settings": {"CLIP_stop_at_last_layers": 1, "sd_vae": None}})
        message = refusal(contract, override_settings={"sd_hypernetwork": "b", "CLIP_stop_at_last_layers": 1})
        assert message == (
            "override_settings: 'sd_hypernetwork' asks for other settings of the web UI, which this worker "
            "does not do; leave it out"
        )

    def test_what_concerns_a_mask_alone_is_nothing_without_one(self, contract: Contract) -> None:
        contract.parse({"prompt": "x", "mask_blur": 4, "inpainting_fill": 0, "mask": ""})
        with_mask = {"init_image": PICTURE, "mask_image": PICTURE}
        assert refusal(contract, mask_blur=4, **with_mask).startswith("mask_blur: 4 asks for ")
        assert refusal(contract, inpainting_fill=0, **with_mask).startswith("inpainting_fill: 0 asks for ")
        contract.parse({"prompt": "x", "mask_blur": 0, "inpainting_fill": 1, **with_mask})

    def test_a_schedule_nobody_has_is_called_that(self, contract: Contract) -> None:
        message = refusal(contract, sampler_name="Euler", scheduler="Karas")
        assert message.startswith(
            "scheduler (schedule): 'Karas' is not a schedule; allowed: automatic, uniform, "
        )

    def test_a_schedule_goes_with_the_deployments_sampler(self, contract: Contract) -> None:
        assert contract.parse({"prompt": "x", "schedule": "exponential"}).scheduler == "DPM++ 2M Exponential"
        assert contract.parse({"prompt": "x", "schedule": "automatic"}).scheduler == "DPM++ 2M Karras"

    def test_two_schedules_contradict(self, contract: Contract) -> None:
        message = refusal(contract, scheduler="DPM++ 2M Karras", schedule="beta")
        assert message == (
            "schedule: 'beta' is another schedule than DPM++ 2M Karras has in its name; leave one of them out"
        )

    def test_a_deployment_may_read_samplers_as_the_web_ui_does(self) -> None:
        contract = Contract(Settings(default_schedule="automatic"), (512, 512))
        assert contract.parse({"prompt": "x", "sampler_name": "DPM++ 2M"}).scheduler == "DPM++ 2M Karras"
        assert contract.parse({"prompt": "x", "sampler_name": "Euler a"}).scheduler == "Euler a"
        karras = Contract(Settings(default_schedule="karras"), (512, 512))
        assert karras.parse({"prompt": "x", "sampler": "PLMS"}).scheduler == "PNDM", "which cannot run on it"

    def test_the_envelope_of_a_web_ui_worker_says_what_to_send(self, contract: Contract) -> None:
        message = refusal(contract, api={"method": "POST"}, payload={"prompt": "x"})
        assert "send its own fields as the input" in message


class TestV1:
    def test_what_is_left_out_is_as_it_was_there(self, v1: Contract) -> None:
        request = v1.parse({"prompt": "a dog"})
        assert (request.width, request.height, request.num_inference_steps) == (512, 512, 50)
        assert (request.scheduler, request.guidance_scale, request.prompt_strength) == ("LMS", 7.5, 0.8)

    def test_beside_a_picture_its_own_size_counts(self, v1: Contract, contract: Contract) -> None:
        job = {"prompt": "x", "init_image": PICTURE, "width": 512, "height": 512}
        assert v1.size_for(v1.parse(job), (645, 484)) == (640, 480)
        assert v1.size_for(v1.parse({**job, "resize": "stretch"}), (640, 480)) == (512, 512)
        assert contract.size_for(contract.parse(job), (640, 480)) == (512, 512)
        assert contract.size_for(contract.parse({**job, "resize": "keep"}), (640, 480)) == (640, 480)

    def test_a_kept_size_that_cannot_be_drawn_says_what_to_do(self, v1: Contract) -> None:
        request = v1.parse({"prompt": "x", "init_image": PICTURE})
        with pytest.raises(InputError, match=r"init_image: its 1x5000 pixels .* another resize than keep"):
            v1.size_for(request, (1, 5000))

    @pytest.mark.parametrize("empty", ["", None])
    def test_empty_pictures_are_none(self, v1: Contract, empty: str | None) -> None:
        request = v1.parse(
            {"prompt": "x", "init_image": empty, "mask": empty, "lora": empty, "prompt_strength": 0.3}
        )
        assert (request.init_image, request.mask, request.lora) == (None, None, None)

    def test_a_mask_without_a_picture_is_refused_there_too(self, v1: Contract) -> None:
        assert refusal(v1, mask=PICTURE, init_image="") == "mask: needs an init_image to repaint"


def test_no_key_of_theirs_is_a_field_of_ours() -> None:
    assert not FOREIGN.keys() & Request.model_fields.keys()


@pytest.mark.parametrize("key", [key for key in FOREIGN.values() if key.harmless], ids=lambda key: key.name)
def test_the_harmless_values_are_ignored_and_null_is(contract: Contract, key: Any) -> None:
    plain = contract.parse({"prompt": "x", "seed": 1})
    for value in (*key.harmless, None):
        assert contract.parse({"prompt": "x", "seed": 1, key.name: value}) == plain
