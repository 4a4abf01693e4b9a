"""What a job's input may be, and what its user reads when it may not."""

import json
import math
import time
from typing import Any

import pytest
from pydantic import ValidationError

from sdworker.request import Contract, InputError, Request, aliases_of
from sdworker.settings import Settings, SettingsError

LARGEST = 2**63 - 1


def refusal(contract: Contract, given: object) -> str:
    with pytest.raises(InputError) as error:
        contract.parse(given)
    return str(error.value)


def contract_with(model_size: tuple[int, int] = (512, 512), **settings: Any) -> Contract:
    return Contract(Settings(**settings), model_size)


class TestDefaults:
    def test_a_prompt_is_enough(self, contract: Contract) -> None:
        request = contract.parse({"prompt": "a red apple"})
        assert request.model_dump(exclude={"seed"}) == {
            "prompt": "a red apple",
            "negative_prompt": "",
            "prompt_syntax": "weights",
            "emphasis": "original",
            "clip_skip": 0,
            "width": 512,
            "height": 512,
            "init_image": None,
            "mask": None,
            "resize": "stretch",
            "prompt_strength": 0.8,
            "num_outputs": 1,
            "num_inference_steps": 25,
            "guidance_scale": 7.5,
            "scheduler": "DPM++ 2M Karras",
            "schedule": "karras",
            "output_format": "png",
            "output_quality": 95,
            "embeddings": (),
            "loras": (),
            "controls": (),
            "return_control": False,
            "previews": False,
            "nsfw": False,
            "hires": None,
            "upscale": None,
            "lora": None,
            "model": None,
            "high_noise_frac": None,
            "refiner_steps": None,
            "lora_scale": 1.0,
        }

    def test_null_means_the_default(self, contract: Contract) -> None:
        nulls = dict.fromkeys(set(Request.model_fields) - {"prompt"})
        given = contract.parse({**nulls, "prompt": "x", "seed": None})
        assert given.model_copy(update={"seed": 1}) == contract.parse({"prompt": "x", "seed": 1})

    @pytest.mark.parametrize("seed", [{}, {"seed": None}, {"seed": -1}])
    def test_without_a_seed_it_is_random_in_32_bits(self, contract: Contract, seed: dict[str, Any]) -> None:
        seeds = {contract.parse({"prompt": "x", **seed}).seed or 0 for _ in range(8)}
        assert len(seeds) > 1
        assert all(0 <= one < 2**32 for one in seeds)

    def test_a_deployment_sets_its_own(self) -> None:
        contract = contract_with(
            default_steps=9, default_guidance=2.5, default_scheduler="K_EULER", default_width=64
        )
        request = contract.parse({"prompt": "x"})
        assert (request.num_inference_steps, request.guidance_scale, request.scheduler) == (9, 2.5, "Euler")
        assert (request.width, request.height) == (64, 512)

    def test_a_picture_leaves_the_size_open(self, contract: Contract) -> None:
        request = contract.parse({"prompt": "x", "init_image": "data:,", "width": 64})
        assert (request.width, request.height) == (64, None)

    def test_image_i_has_seed_plus_i(self, contract: Contract) -> None:
        assert contract.parse({"prompt": "x", "seed": 5, "num_outputs": 3}).seeds == (5, 6, 7)

    def test_a_default_size_that_may_not_be_drawn_stops_the_worker(self) -> None:
        with pytest.raises(SettingsError, match="MAX_PIXELS: 262143 is less than the 512x512"):
            contract_with(max_pixels=512 * 512 - 1)
        contract_with(max_pixels=512 * 512 - 1, default_height=256)


class TestLimits:
    @pytest.mark.parametrize(
        ("field", "allowed", "refused"),
        [
            (
                "prompt",
                ["x", "x" * 4096, " x ", "🐶" * 4096, "\0"],
                ["", " \n\t", "x" * 4097, 5, True, ["x"]],
            ),
            ("negative_prompt", ["", " ", "x" * 4096], ["x" * 4097, 5, False, {}]),
            ("width", [64, 512, 2048, 512.0], [0, 56, 63, 65, 100, 2056, 512.5, -64, True, "512"]),
            ("height", [64, 512, 2048, 512.0], [0, 56, 63, 65, 100, 2056, 512.5, -64, True, "512"]),
            ("init_image", ["https://a.example/b.png", "data:image/png;base64,AA==", ""], [5, True, []]),
            ("mask", [""], [5, True, {}]),
            ("resize", ["stretch", "crop", "fill", "keep"], ["", "Crop", 1, True]),
            ("schedule", ["automatic", "Karras", "SGM Uniform", "sgm_uniform"], ["", "none", 5, ["karras"]]),
            ("num_outputs", [1, 16, 4.0], [0, -1, 17, 1.5, True, "2", 10**400]),
            ("num_inference_steps", [1, 500, 25.0], [0, 501, -5, 2.5, True, "25"]),
            ("guidance_scale", [0, 0.0, 1, 30, 7.25], [-0.1, 30.1, "7", True, math.nan, math.inf, 10**400]),
            (
                "scheduler",
                ["DDIM", "dpm++_2m karras", "PNDMScheduler"],
                ["", "none", 5, {}, ["DDIM"]],
            ),
            ("seed", [0, 7.0, LARGEST - 1], [-2, LARGEST, LARGEST + 1, 1.5, True, "42", 1e300, -math.inf]),
            ("output_format", ["png", "jpeg", "webp", "PNG", "jpg"], ["gif", "", 1, True]),
            ("output_quality", [1, 100, 50.0], [0, 101, 9.5, "90", True]),
            ("nsfw", [True, False], [0, 1, "true", "yes", []]),
            ("lora", [""], ["x" * 2049, 5, True]),
            ("lora_scale", [0, 0.5, 1, -10], [-10.1, 10.1, "1", True, math.nan]),
        ],
    )
    def test_each_field_keeps_its_limits(
        self, contract: Contract, field: str, allowed: list[Any], refused: list[Any]
    ) -> None:
        for value in allowed:
            contract.parse({"prompt": "x", field: value})
        for value in refused:
            assert refusal(contract, {"prompt": "x", field: value}).startswith(f"{field}: "), value

    @pytest.mark.parametrize("picture", [{}, {"init_image": "data:,"}], ids=["without", "with a picture"])
    def test_strength_is_from_0_to_1(self, contract: Contract, picture: dict[str, Any]) -> None:
        given = {"prompt": "x", **picture}
        allowed: tuple[float, ...] = (0, 0.001, 0.8, 1, 1.0)
        refused: tuple[Any, ...] = (-0.1, 1.01, "1", True, math.nan)
        for value in allowed:
            assert contract.parse({**given, "prompt_strength": value}).prompt_strength == value
        for wrong in refused:
            assert refusal(contract, {**given, "prompt_strength": wrong}).startswith("prompt_strength: ")

    def test_the_last_images_seed_is_in_range_too(self, contract: Contract) -> None:
        contract.parse({"prompt": "x", "seed": LARGEST - 4, "num_outputs": 4})
        assert refusal(contract, {"prompt": "x", "seed": LARGEST - 3, "num_outputs": 4}).startswith("seed: ")

    def test_the_area_is_limited(self, contract: Contract) -> None:
        contract.parse({"prompt": "x", "width": 2048, "height": 512})
        message = refusal(contract, {"prompt": "x", "width": 2048, "height": 520})
        assert message == "width, height: 2048x520 is 1064960 pixels; allowed: at most 1048576 (MAX_PIXELS)"

    def test_the_area_is_limited_with_a_picture_as_well(self, contract: Contract) -> None:
        given = {"prompt": "x", "init_image": "data:,", "width": 1024, "height": 1032}
        assert refusal(contract, given).startswith("width, height: 1024x1032")

    def test_the_default_of_the_other_side_counts(self) -> None:
        contract = contract_with((768, 768), max_pixels=768 * 768)
        assert refusal(contract, {"prompt": "x", "width": 776}).startswith("width, height: 776x768")

    def test_the_deployment_says_how_many_images(self) -> None:
        contract = contract_with(max_outputs=2)
        message = refusal(contract, {"prompt": "x", "num_images": 3})
        assert message == (
            "num_images (num_outputs): 3 is out of range; allowed: a whole number from 1 to 2 (MAX_OUTPUTS)"
        )


class TestNames:
    @pytest.mark.parametrize(
        ("field", "names"),
        [
            ("init_image", ["image", "image_url"]),
            ("mask", ["mask_image"]),
            ("prompt_strength", ["strength", "denoising_strength"]),
            ("num_outputs", ["num_images", "batch_size"]),
            ("num_inference_steps", ["steps"]),
            ("guidance_scale", ["cfg_scale"]),
            ("scheduler", ["sampler", "sampler_name"]),
        ],
    )
    def test_a_field_goes_by_the_names_of_the_peers(
        self, contract: Contract, field: str, names: list[str]
    ) -> None:
        assert list(aliases_of(field)) == names
        value = {"prompt_strength": 0.5, "scheduler": "DDIM"}.get(field, "data:," if "ma" in field else 2)
        base = {"prompt": "x", "seed": 1}
        if field in ("mask", "prompt_strength"):
            base["init_image"] = "data:,"
        for name in names:
            assert contract.parse({**base, name: value}) == contract.parse({**base, field: value})

    def test_one_value_under_two_names_is_fine(self, contract: Contract) -> None:
        assert (
            contract.parse({"prompt": "x", "steps": 5, "num_inference_steps": 5.0}).num_inference_steps == 5
        )

    def test_a_null_under_one_name_leaves_the_other(self, contract: Contract) -> None:
        assert (
            contract.parse({"prompt": "x", "steps": 5, "num_inference_steps": None}).num_inference_steps == 5
        )

    @pytest.mark.parametrize("other", [6, True, "5", [5]])
    def test_two_values_for_one_field_are_refused_with_both_names(
        self, contract: Contract, other: object
    ) -> None:
        message = refusal(contract, {"prompt": "x", "steps": 5, "num_inference_steps": other})
        assert message == (
            "num_inference_steps: is given twice, as steps and as num_inference_steps, with different values"
        )

    @pytest.mark.parametrize(
        ("name", "levels", "sampler"),
        [
            ("DPM++ 2M", "Karras", "DPM++ 2M Karras"),
            ("DPM++ 2M SDE", "exponential", "DPM++ 2M SDE Exponential"),
            ("Euler a", "Automatic", "Euler a"),
            ("DPM++ 2M", "Automatic", "DPM++ 2M Karras"),
            ("DPM++ 3M SDE", "Automatic", "DPM++ 3M SDE Exponential"),
            ("DPM++ 2M Karras", "Automatic", "DPM++ 2M Karras"),
            ("DPM++ 2M Karras", "Karras", "DPM++ 2M Karras"),
            ("Euler", "SGM Uniform", "Euler SGM Uniform"),
            ("Euler", "DDIM", "Euler DDIM"),
        ],
    )
    def test_a_sampler_and_its_noise_levels_may_be_said_apart(
        self, contract: Contract, name: str, levels: str, sampler: str
    ) -> None:
        given = {"prompt": "x", "sampler_name": name, "scheduler": levels}
        assert contract.parse(given).scheduler == sampler

    def test_a_schedule_that_a_sampler_cannot_run_on_is_refused_with_those_it_can(
        self, contract: Contract
    ) -> None:
        message = refusal(contract, {"prompt": "x", "sampler_name": "PLMS", "scheduler": "Karras"})
        assert message == (
            "scheduler (schedule): 'karras' cannot be had with PNDM; "
            "allowed: automatic, uniform, sgm_uniform, turbo"
        )

    def test_an_error_says_the_name_that_was_written_and_the_field(self, contract: Contract) -> None:
        message = refusal(contract, {"prompt": "x", "steps": 0})
        assert message == (
            "steps (num_inference_steps): 0 is not allowed; allowed: a whole number from 1 to 500, or 0 with an "
            "init_image and an upscale"
        )
        assert refusal(contract, {"prompt": "x", "mask_image": "data:,"}) == (
            "mask_image (mask): needs an init_image to repaint"
        )

    @pytest.mark.parametrize(
        ("written", "meant"),
        [
            ("promt", "prompt"),
            ("Prompt", "prompt"),
            ("negativePrompt", "negative_prompt"),
            ("num_inference_step", "num_inference_steps"),
            ("numOutputs", "num_outputs"),
            ("cfg", "cfg_scale"),
            ("guidance", "guidance_scale"),
            ("hight", "height"),
            ("seeds", "seed"),
        ],
    )
    def test_an_unknown_field_is_refused_with_the_nearest_name(
        self, contract: Contract, written: str, meant: str
    ) -> None:
        message = refusal(contract, {"prompt": "x", written: 1})
        assert message == f"'{written}': there is no such field; the nearest is {meant}"

    def test_an_unknown_field_is_refused_even_when_it_is_null(self, contract: Contract) -> None:
        assert "there is no such field" in refusal(contract, {"prompt": "x", "refiner": None})


class TestTogether:
    def test_a_mask_needs_a_picture(self, contract: Contract) -> None:
        message = refusal(contract, {"prompt": "x", "mask_image": "data:,"})
        assert message == "mask_image (mask): needs an init_image to repaint"

    @pytest.mark.parametrize("strength", [0, 0.3, 0.8, 1])
    def test_a_strength_without_a_picture_means_nothing(self, contract: Contract, strength: float) -> None:
        contract.parse({"prompt": "x", "prompt_strength": strength, "init_image": "", "mask": ""})

    @pytest.mark.parametrize(
        ("given", "only"),
        [
            ({"init_image": 5, "mask": "data:,"}, "init_image: 5 is not allowed"),
            ({"width": 2049, "height": 2048}, "width: 2049 is not allowed"),
            ({"num_outputs": 10**30, "seed": 5}, "num_outputs: 1"),
        ],
    )
    def test_a_wrong_field_causes_no_errors_about_others(
        self, contract: Contract, given: dict[str, Any], only: str
    ) -> None:
        message = refusal(contract, {"prompt": "x", **given})
        assert message.startswith(only)
        assert message.count("; ") == 1  # the one before `allowed`


class TestMessages:
    def test_all_problems_are_told_at_once(self, contract: Contract) -> None:
        message = refusal(
            contract,
            {
                "prompt": " ",
                "steps": 0,
                "width": 100,
                "seed": "42",
                "colour": "red",
                "mask": "data:,",
                "loras": [{"name": ""}],
            },
        )
        for part in (
            "prompt: a text of 1 character is blank",
            "steps (num_inference_steps): 0 is not allowed; allowed: a whole number from 1 to 500",
            "width: 100 is not allowed; allowed: a multiple of 8 from 64 to 2048",
            "seed: '42' is not allowed; allowed, without quotes: a whole number from 0 to 2^63-1",
            "'colour': there is no such field",
            "mask: needs an init_image",
            "loras[0].name: a text of 0 characters is not allowed",
        ):
            assert part in message

    @pytest.mark.parametrize("given", [None, [], "prompt", 5, True, 1.5, [{"prompt": "x"}]])
    def test_an_input_that_is_no_object_is_refused(self, contract: Contract, given: object) -> None:
        assert "is not an object; allowed: an object with at least `prompt`" in refusal(contract, given)

    def test_an_empty_input_misses_its_prompt(self, contract: Contract) -> None:
        assert refusal(contract, {}) == "prompt: is missing; allowed: text of 1 to 4096 characters"

    def test_half_a_surrogate_pair_is_called_that(self, contract: Contract) -> None:
        message = refusal(contract, {"prompt": "a \ud83d"})
        assert (
            message
            == "prompt: a text of 3 characters is not valid Unicode: it holds half of a surrogate pair"
        )

    def test_ten_thousand_unknown_fields_make_a_short_error_quickly(self, contract: Contract) -> None:
        start = time.process_time()
        message = refusal(contract, {"prompt": "x", **{f"{'k' * 100}{i}": i for i in range(10_000)}})
        assert time.process_time() - start < 1
        assert len(message) < 1000
        assert message.endswith("and 9995 more that are no fields")

    def test_a_huge_unknown_name_is_not_compared_letter_by_letter(self, contract: Contract) -> None:
        start = time.process_time()
        assert len(refusal(contract, {"prompt": "x", "prompt" * 500_000: 1})) < 200
        assert time.process_time() - start < 1

    @pytest.mark.parametrize("field", ["prompt", "negative_prompt", "init_image", "mask"])
    def test_prompts_and_pictures_are_never_repeated(self, contract: Contract, field: str) -> None:
        secret = "my secret \ud800"
        assert "secret" not in refusal(contract, {"prompt": "x", field: secret})
        assert "secret" not in refusal(contract, "my secret")

    def test_nothing_long_is_repeated(self, contract: Contract) -> None:
        given = dict.fromkeys(Request.model_fields, "s3cret" * 20) | {"s3cret" * 20: 1}
        assert "s3cret" not in refusal(contract, given)


class TestOddJson:
    def deep(self, levels: int = 100_000) -> Any:
        value: Any = 1
        for _ in range(levels):
            value = [value]
        return value

    @pytest.mark.parametrize("name", sorted(Request.model_fields))
    def test_nested_junk_is_refused_whatever_the_field(self, contract: Contract, name: str) -> None:
        junks: tuple[Any, ...] = ({}, [], {"a": [1, {"b": None}]}, [[]], self.deep())
        for junk in junks:
            if junk == [] and Request.model_fields[name].default == ():
                continue  # it is a list
            if junk == {} and name == "hires":
                continue  # it is an object, all of whose fields have defaults
            assert name in refusal(contract, {"prompt": "x", name: junk})

    def test_nested_junk_under_two_names_is_refused(self, contract: Contract) -> None:
        given = {"prompt": "x", "steps": self.deep(), "num_inference_steps": self.deep()}
        assert "is given twice" in refusal(contract, given)

    @pytest.mark.parametrize("key", [5, 1.5, None, True, (1, 2), b"prompt", 10**5000, math.nan], ids=range(8))
    def test_a_name_that_is_no_text_is_unknown(self, contract: Contract, key: object) -> None:
        assert "there is no such field" in refusal(contract, {"prompt": "x", key: 1})

    @pytest.mark.parametrize("number", [10**5000, -(10**5000), 1e308, math.inf, math.nan], ids=range(5))
    @pytest.mark.parametrize(
        "name", ["width", "num_outputs", "num_inference_steps", "guidance_scale", "seed", "output_quality"]
    )
    def test_numbers_out_of_this_world_are_refused(
        self, contract: Contract, name: str, number: float
    ) -> None:
        assert refusal(contract, {"prompt": "x", name: number}).startswith(name)


class TestPeers:
    """Jobs as the peers' documentation and users write them."""

    def test_a_complete_v1_job_runs_unchanged(self, contract: Contract) -> None:
        contract.parse(
            {
                "prompt": "a cute magical flying dog, fantasy art drawn by disney concept artists",
                "negative_prompt": None,
                "width": 512,
                "height": 768,
                "init_image": None,
                "mask": None,
                "prompt_strength": 0.8,
                "num_outputs": 9,
                "num_inference_steps": 499,
                "guidance_scale": 20,
                "scheduler": "K-LMS",
                "seed": None,
                "nsfw": True,
                "lora": None,
                "lora_scale": 1,
            }
        )

    @pytest.mark.parametrize("side", [128, 256, 384, 448, 512, 576, 640, 704, 768])
    def test_every_size_of_v1_is_drawn(self, contract: Contract, side: int) -> None:
        contract.parse({"prompt": "x", "width": side, "height": 1024 if side == 768 else side})

    def test_a_v1_inpainting_job_runs_unchanged(self, contract: Contract) -> None:
        picture = "https://a.example/in.png"
        given = {"prompt": "x", "init_image": picture, "mask": picture, "prompt_strength": 1.0}
        assert contract.parse(given).init_image == picture

    @pytest.mark.parametrize(
        "job",
        [
            {
                "prompt": "x",
                "negative_prompt": "",
                "sampler_name": "DPM++ 2M Karras",
                "steps": 20,
                "cfg_scale": 7,
                "width": 512,
                "height": 768,
                "seed": -1,
                "batch_size": 1,
            },
            {"prompt": "x", "image_url": None, "num_images": 2, "scheduler": "K_EULER", "strength": 0.8},
            {
                "prompt": "x",
                "num_outputs": 4,
                "scheduler": "DPMSolverMultistep",
                "image": "data:,",
                "mask": None,
            },
        ],
        ids=["AUTOMATIC1111", "worker-sdxl", "cog"],
    )
    def test_a_job_for_a_peer_runs_unchanged(self, contract: Contract, job: dict[str, Any]) -> None:
        contract.parse(json.loads(json.dumps(job)))


class TestRequest:
    def test_it_cannot_be_changed(self, contract: Contract) -> None:
        request = contract.parse({"prompt": "x"})
        with pytest.raises(ValidationError):
            request.prompt = "y"  # type: ignore[misc]
        with pytest.raises(ValidationError):
            del request.prompt

    def test_what_it_was_made_of_is_left_as_it_was(self, contract: Contract) -> None:
        given = {"prompt": "x", "steps": 5, "lora": "", "seed": None}
        contract.parse(given)
        assert given == {"prompt": "x", "steps": 5, "lora": "", "seed": None}
