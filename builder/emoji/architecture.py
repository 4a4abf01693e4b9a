"""Stable Diffusion 1.x, scaled down: the same classes, the same folder, everything narrower.

| part | Stable Diffusion 1.5 | here |
|---|---|---|
| text encoder | CLIP, 12 layers of 768 | CLIP, 2 layers of 128 |
| UNet | 320-640-1280-1280, two layers a block | 64-96-144, one layer a block |
| autoencoder | 128-256-512-512, two layers a block | 16-32-64-96, one layer a block |
| picture | 512 px, latents 64 x 64 x 4 | 128 px, latents 16 x 16 x 4 |
"""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from builder.emoji import tokenizer as emoji_tokenizer

LATENT_SIZE = 16
LATENT_CHANNELS = 4
TEXT_WIDTH = 128
# Stable Diffusion 1.x multiplies latents by this; the autoencoder here is trained to want the same.
SCALING_FACTOR = 0.18215
# What a UNet that starts anew is taught to predict. Where a picture is almost noise, which is where form and
# colour are decided, a small network that predicts the noise says little about the picture; velocity does.
PREDICTION_TYPE = "v_prediction"


def new_autoencoder() -> AutoencoderKL:
    """8x downsampling to four channels: `[n, 3, 128, 128]` to `[n, 4, 16, 16]`."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=LATENT_SIZE * 8,
        scaling_factor=SCALING_FACTOR,
    )


def new_unet() -> UNet2DConditionModel:
    """Cross-attention at 16 x 16 and 8 x 8 and in the middle, as Stable Diffusion has it; none at 4 x 4."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(64, 96, 144),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        norm_num_groups=16,
    )


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """CLIP's text encoder for the tokenizer's vocabulary: `[n, 77]` to `[n, 77, 128]`."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=emoji_tokenizer.POSITIONS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_scheduler(prediction_type: str = PREDICTION_TYPE) -> PNDMScheduler:
    """Stable Diffusion 1.5's own, but for what the UNet predicts."""
    scheduler = PNDMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    # Not PNDM's own, but DDIM and DDPM made from this configuration would otherwise clip latents to [-1, 1].
    scheduler.register_to_config(clip_sample=False)
    return scheduler


def pipeline(
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    autoencoder: AutoencoderKL,
    predicted: str = PREDICTION_TYPE,
) -> StableDiffusionPipeline:
    """The four parts as one that draws."""
    whole = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=new_scheduler(predicted),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    whole.set_progress_bar_config(disable=True)
    return whole


def save(folder: Path, whole: StableDiffusionPipeline) -> None:
    """Write it as a diffusers folder, fp16 safetensors. The networks given are left in fp16."""
    whole.scheduler = new_scheduler(prediction_type(whole))  # drawing changes it
    whole.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
    emoji_tokenizer.save(whole.tokenizer, folder / "tokenizer")
    # transformers would load the text encoder in fp16, as it is stored, and diffusers all else in fp32.
    _edit(folder / "text_encoder" / "config.json", dtype="float32")
    _edit(folder / "model_index.json", _name_or_path=None)
    for part in ("unet", "vae"):
        _edit(folder / part / "config.json", _name_or_path=None)
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)


def prediction_type(whole: StableDiffusionPipeline) -> str:
    """What its UNet predicts: "epsilon" or "v_prediction"."""
    predicted: str = whole.scheduler.config.prediction_type
    return predicted


def load(folder: Path, device: str | torch.device = "cpu") -> StableDiffusionPipeline:
    """The saved model in fp32, ready to draw."""
    whole = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    whole.set_progress_bar_config(disable=True)
    return whole.to(device)


def _edit(config: Path, **changes: str | None) -> None:
    """Set entries of a JSON file, or take out those given as None."""
    entries = json.loads(config.read_text()) | changes
    kept = {name: value for name, value in entries.items() if name not in changes or value is not None}
    config.write_text(json.dumps(kept, indent=2) + "\n")
