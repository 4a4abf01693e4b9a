"""What a checkpoint becomes: the weights it was made of, under diffusers' names."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from bench.random_model import SD15, SDXL, Architecture
from sdworker.checkpoints import CheckpointError, read_checkpoint, write_configs, write_folder
from sdworker.checkpoints.folder import own_configs, read_json
from sdworker.checkpoints.names import wanted_shapes
from sdworker.model_layout import STABLE_DIFFUSION, STABLE_DIFFUSION_XL, Layout
from tests.builder.tiny_model import xl_tensors


@pytest.mark.parametrize(("name", "family"), [("sd", "stable-diffusion-1.5"), ("xl", "stable-diffusion-xl")])
def test_its_weights_are_those_it_was_made_of(
    singles: Path, configs: Path, tmp_path: Path, name: str, family: str
) -> None:
    checkpoint = read_checkpoint(singles / f"{name}.safetensors")
    write_folder(checkpoint, configs / family, tmp_path / "out")
    for part, stem in checkpoint.layout.weights.items():
        ours, theirs = (
            load_file(root / part / f"{stem}.safetensors") for root in (tmp_path / "out", configs / family)
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key].half()) for key in ours), part


def test_diffusers_draws_with_what_an_xl_file_became(singles: Path, configs: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(singles / "xl.safetensors")
    write_folder(checkpoint, configs / "stable-diffusion-xl", tmp_path / "out")
    latents = []
    for folder in (tmp_path / "out", configs / "stable-diffusion-xl"):
        pipeline = StableDiffusionXLPipeline.from_pretrained(
            folder, add_watermarker=False, dtype=torch.float32
        )
        pipeline.set_progress_bar_config(disable=True)
        drawn = pipeline(
            "a red apple", width=64, height=64, num_inference_steps=2, output_type="latent",
            generator=torch.Generator().manual_seed(1),
        )  # fmt: skip
        latents.append(drawn.images)
    assert torch.equal(*latents)


def test_an_inpainting_model_is_known_by_its_nine_channels(
    singles: Path, configs: Path, tmp_path: Path
) -> None:
    tensors = xl_tensors(configs / "stable-diffusion-xl")
    first = "model.diffusion_model.input_blocks.0.0.weight"
    tensors[first] = torch.cat([tensors[first], torch.zeros(tensors[first].shape[0], 5, 3, 3)], dim=1)
    save_file(tensors, tmp_path / "nine.safetensors")
    write_folder(
        read_checkpoint(tmp_path / "nine.safetensors"), configs / "stable-diffusion-xl", tmp_path / "out"
    )
    assert read_json(tmp_path / "out" / "unet" / "config.json")["in_channels"] == 9
    assert (
        read_json(tmp_path / "out" / "model_index.json")["_class_name"] == "StableDiffusionXLInpaintPipeline"
    )


@pytest.mark.parametrize(
    ("weight", "named"),
    [
        ("conditioner.embedders.1.model.text_projection", "text_encoder_2, text_projection.weight first"),
        ("conditioner.embedders.1.model.ln_final.bias", "text_encoder_2, final_layer_norm.bias first"),
        ("conditioner.embedders.0.transformer.text_model.final_layer_norm.bias", "text_encoder, final_layer"),
        ("model.diffusion_model.out.2.bias", "unet, conv_out.bias first"),
        ("first_stage_model.decoder.norm_out.bias", "vae, decoder.conv_norm_out.bias first"),
    ],
)
def test_a_weight_of_xl_that_lacks_is_named(configs: Path, tmp_path: Path, weight: str, named: str) -> None:
    tensors = xl_tensors(configs / "stable-diffusion-xl")
    del tensors[weight]
    save_file(tensors, tmp_path / "one.safetensors")
    with pytest.raises(CheckpointError, match=f"one.safetensors lacks 1 weights of the {named}"):
        write_folder(
            read_checkpoint(tmp_path / "one.safetensors"), configs / "stable-diffusion-xl", tmp_path / "out"
        )


class TestOwnConfigurations:
    """What is kept of each family, beside the real networks' own descriptions."""

    @pytest.mark.parametrize(
        ("layout", "architecture"), [(STABLE_DIFFUSION, SD15), (STABLE_DIFFUSION_XL, SDXL)], ids=["sd", "xl"]
    )
    def test_they_make_the_real_networks(self, layout: Layout, architecture: Architecture) -> None:
        with torch.device("meta"):
            networks = {
                "unet": UNet2DConditionModel(**architecture.unet),
                "vae": AutoencoderKL(**architecture.vae),
                "text_encoder": CLIPTextModel(CLIPTextConfig(**architecture.text_encoder)),
            }
            if architecture.text_encoder_2 is not None:
                config = CLIPTextConfig(**architecture.text_encoder_2)
                networks["text_encoder_2"] = CLIPTextModelWithProjection(config)
        for part, network in networks.items():
            config = read_json(own_configs(layout) / part / "config.json")
            shapes = {
                key.removeprefix("text_model."): tuple(value.shape)
                for key, value in network.state_dict().items()
            }
            assert wanted_shapes(part, config) == shapes
            built = network.config
            for key, value in config.items():
                if key not in ("architectures", "_class_name") and hasattr(built, key):
                    theirs = getattr(built, key)
                    assert (list(theirs) if isinstance(theirs, tuple) else theirs) == value or key.endswith(
                        "_token_id"
                    ), key

    def test_the_tokenizer_is_clips(self, tmp_path: Path) -> None:
        write_configs(STABLE_DIFFUSION_XL, tmp_path / "xl")
        tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "xl" / "tokenizer")
        # As CLIP's paper's code has it, and every model made with it.
        assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
        assert tokenizer("Astronaut, riding a horse!").input_ids[1:3] == [18376, 267]
        assert len(tokenizer) == 49408
        second = CLIPTokenizer.from_pretrained(tmp_path / "xl" / "tokenizer_2")
        assert second.pad_token == "!"
