"""A name that is no field is answered with the one that was meant, or with none."""

import pytest

from sdworker.request import Request, aliases_of
from sdworker.request.names import nearest

NAMES = [name for field in Request.model_fields for name in (field, *aliases_of(field))]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("promt", "prompt"),
        ("Prompt", "prompt"),
        ("prompts", "prompt"),
        ("propmt", "prompt"),
        ("negativePrompt", "negative_prompt"),
        ("negative-prompt", "negative_prompt"),
        ("negativ_prompt", "negative_prompt"),
        ("neg_prompt", "negative_prompt"),
        ("hight", "height"),
        ("heigth", "height"),
        ("widht", "width"),
        ("withd", "width"),
        ("seeds", "seed"),
        ("Seed", "seed"),
        ("step", "steps"),
        ("stepz", "steps"),
        ("num_steps", "num_inference_steps"),
        ("numInferenceSteps", "num_inference_steps"),
        ("inference_steps", "num_inference_steps"),
        ("num_inference_step", "num_inference_steps"),
        ("num_outputs_", "num_outputs"),
        ("numOutputs", "num_outputs"),
        ("num_output", "num_outputs"),
        ("numimages", "num_images"),
        ("num_image", "num_images"),
        ("batchsize", "batch_size"),
        ("cfg", "cfg_scale"),
        ("cfgScale", "cfg_scale"),
        ("guidance", "guidance_scale"),
        ("guidanceScale", "guidance_scale"),
        ("shceduler", "scheduler"),
        ("scheduller", "scheduler"),
        ("samplers", "sampler"),
        ("samplerName", "sampler_name"),
        ("init_img", "init_image"),
        ("initImage", "init_image"),
        ("imageUrl", "image_url"),
        ("mask_img", "mask_image"),
        ("denoising", "denoising_strength"),
        ("denoise_strength", "denoising_strength"),
        ("promptStrength", "prompt_strength"),
        ("format", "output_format"),
        ("outputFormat", "output_format"),
        ("output_quaility", "output_quality"),
        ("lora_scales", "lora_scale"),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(written: str, meant: str) -> None:
    assert nearest(written, NAMES) == meant


@pytest.mark.parametrize(
    "written",
    [
        "override_settings", "alwayson_scripts", "controlnet", "control_image",
        "tiling", "styles", "checkpoint", "vae", "eta", "subseed", "user", "id", "webhook",
        "api_key", "token", "text", "input", "n", "x", "", "???", "quality_mode", "style_preset", "security",
        "self", "__class__", "toString", "constructor", "colour", "size", "aspect_ratio", "number", "language",
        "face_restore", "workflow", "\U0001f436", "\ud800",
    ],
)  # fmt: skip
def test_what_is_no_slip_is_answered_with_nothing(written: str) -> None:
    assert nearest(written, NAMES) is None


def test_a_long_name_is_not_compared_letter_by_letter() -> None:
    assert nearest("prompt" * 1_000_000, NAMES) is None
