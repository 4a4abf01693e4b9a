"""Which files are taken from a repository, and which repositories are refused."""

from typing import Any

import pytest
from builder.errors import FetchError
from builder.layout import clean_index, plan_files

INDEX: dict[str, Any] = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.6.0",
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
SMALL = [
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "unet/config.json",
    "vae/config.json",
]
WEIGHTS = [
    "text_encoder/model.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
]


class TestFilesTaken:
    def test_only_what_the_worker_needs(self) -> None:
        clutter = [
            "README.md",
            "v1-5-pruned.safetensors",
            "feature_extractor/preprocessor_config.json",
            "safety_checker/model.safetensors",
            "unet/diffusion_pytorch_model.bin",
            "unet/diffusion_pytorch_model.non_ema.safetensors",
            "unet/model.onnx",
        ]
        plan = plan_files(INDEX, SMALL + WEIGHTS + clutter)
        assert sorted(plan.sources) == sorted(["model_index.json", *SMALL, *WEIGHTS])

    def test_half_precision_is_preferred_and_loses_its_suffix(self) -> None:
        half = [name.replace(".safetensors", ".fp16.safetensors") for name in WEIGHTS]
        plan = plan_files(INDEX, SMALL + WEIGHTS + half)
        assert plan.weights == {name: (other,) for name, other in zip(WEIGHTS, half, strict=True)}

    def test_each_component_is_chosen_for_itself(self) -> None:
        plan = plan_files(INDEX, [*SMALL, *WEIGHTS, "unet/diffusion_pytorch_model.fp16.safetensors"])
        assert plan.weights[WEIGHTS[0]] == (WEIGHTS[0],)
        assert plan.weights[WEIGHTS[1]] == ("unet/diffusion_pytorch_model.fp16.safetensors",)

    @pytest.mark.parametrize(
        "name", ["{}-{}.safetensors", "{}.fp16-{}.safetensors", "{}-{}.fp16.safetensors"]
    )
    def test_shards_are_taken_in_order(self, name: str) -> None:
        shards = [name.format("unet/diffusion_pytorch_model", f"{i:05}-of-00011") for i in range(1, 12)]
        plan = plan_files(INDEX, [*SMALL, WEIGHTS[0], WEIGHTS[2], *reversed(shards)])
        assert plan.weights[WEIGHTS[1]] == tuple(shards)

    def test_a_licence_comes_along(self) -> None:
        assert "LICENSE.md" in plan_files(INDEX, [*SMALL, *WEIGHTS, "LICENSE.md"]).copies

    def test_without_weights_only_small_files(self) -> None:
        plan = plan_files(INDEX, SMALL, with_weights=False)
        assert sorted(plan.copies) == SMALL
        assert not plan.weights

    def test_a_tokenizer_in_one_file_is_enough(self) -> None:
        names = [name for name in SMALL if not name.startswith("tokenizer/")]
        assert (
            "tokenizer/tokenizer.json"
            in plan_files(INDEX, [*names, *WEIGHTS, "tokenizer/tokenizer.json"]).copies
        )

    def test_a_latent_consistency_model_has_the_same_parts(self) -> None:
        plan = plan_files({**INDEX, "_class_name": "LatentConsistencyModelPipeline"}, SMALL + WEIGHTS)
        assert sorted(plan.weights) == WEIGHTS


class TestRefused:
    @pytest.mark.parametrize(
        "name",
        [
            "StableDiffusion3Pipeline",
            "FluxPipeline",
            "StableDiffusionInstructPix2PixPipeline",
        ],
    )
    def test_other_pipelines_with_what_is_supported(self, name: str) -> None:
        with pytest.raises(FetchError, match=rf"{name}.*supported: Stable Diffusion 1.x, 2.x and XL"):
            plan_files({**INDEX, "_class_name": name}, SMALL + WEIGHTS)

    def test_other_networks(self) -> None:
        index = {**INDEX, "text_encoder": ["transformers", "T5EncoderModel"]}
        with pytest.raises(FetchError, match="text_encoder is a T5EncoderModel"):
            plan_files(index, SMALL + WEIGHTS)

    def test_code_in_the_repository(self) -> None:
        with pytest.raises(FetchError, match="code of its own"):
            plan_files({**INDEX, "unet": ["my_unet", "UNet2DConditionModel"]}, SMALL + WEIGHTS)

    def test_a_component_that_is_null(self) -> None:
        with pytest.raises(FetchError, match="names no vae"):
            plan_files({**INDEX, "vae": [None, None]}, SMALL + WEIGHTS)

    def test_pickled_weights_with_the_reason(self) -> None:
        names = [*SMALL, *WEIGHTS[1:], "text_encoder/pytorch_model.bin"]
        with pytest.raises(FetchError, match=r"text_encoder has pickled weights only, which can run code"):
            plan_files(INDEX, names)

    @pytest.mark.parametrize("missing", SMALL + WEIGHTS)
    def test_a_missing_file_by_its_name(self, missing: str) -> None:
        with pytest.raises(FetchError, match=rf"{missing}.* missing|tokenizer/vocab.json and .*is missing"):
            plan_files(INDEX, [name for name in SMALL + WEIGHTS if name != missing])

    def test_a_missing_shard(self) -> None:
        shards = [f"unet/diffusion_pytorch_model-0000{i}-of-00003.safetensors" for i in (1, 3)]
        with pytest.raises(FetchError, match="one of 3 shards, of which some are missing"):
            plan_files(INDEX, [*SMALL, WEIGHTS[0], WEIGHTS[2], *shards])


class TestCleanIndex:
    def test_names_kept_components_only(self) -> None:
        index = clean_index({**INDEX, "image_encoder": ["transformers", "X"]}, unet_channels=4)
        assert index["safety_checker"] == index["feature_extractor"] == [None, None]
        assert index["requires_safety_checker"] is False
        assert "image_encoder" not in index
        assert index["unet"] == INDEX["unet"]

    @pytest.mark.parametrize(
        ("channels", "name"), [(4, "StableDiffusionPipeline"), (9, "StableDiffusionInpaintPipeline")]
    )
    def test_the_pipeline_is_the_unet_s(self, channels: int, name: str) -> None:
        assert clean_index(INDEX, unet_channels=channels)["_class_name"] == name
