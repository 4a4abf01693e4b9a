"""LoRAs: `python -m builder.emoji.addons.lora pencil` and `… pixels`.

| | file | adapts | teaches |
|---|---|---|---|
| `pencil` | kohya's keys, alphas that differ by module | linear layers of UNet and text encoder | grey drawings |
| `pixels` | diffusers' keys (PEFT) | the UNet's convolutions and attentions | blocks of 8 px |

No trigger word: whatever is asked for comes in the style. Trained with PEFT on the model's own lessons, each
picture replaced by what `styles.py` makes of it.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn

from builder.emoji import architecture, autoencoder, diffusion, drawing, evaluate, pictures
from builder.emoji.addons import command, styles
from builder.emoji.diffusion import DiffusionPlan
from builder.emoji.pictures import Emojis
from builder.emoji.trainer import Trainer

FOLDER = Path("models/loras")
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")
CONVOLUTIONS = ("conv1", "conv2", "conv", "conv_shortcut", "conv_out", "proj_in", "proj_out")
PLAN = DiffusionPlan(batch=16, rate=2e-3, colours=0, captions=12, empty_share=0.1)


@dataclass(frozen=True)
class Style:
    """How a LoRA is made: from which pictures, into which modules, of what rank and alpha."""

    picture: Callable[[np.ndarray], np.ndarray]
    unet: LoraConfig
    text_encoder: LoraConfig | None
    save: Callable[[Path, StableDiffusionPipeline], None]


def teach(pipeline: StableDiffusionPipeline, style: Style, emojis: Emojis, trainer: Trainer) -> bool:
    """Add the style's adapters to the networks and train those. Returns whether the whole budget was spent."""
    for network in (pipeline.unet, pipeline.text_encoder):
        network.requires_grad_(False)
    pipeline.unet.add_adapter(style.unet)
    if style.text_encoder:
        pipeline.text_encoder.add_adapter(style.text_encoder)
    lessons = diffusion.make_lessons(pipeline.vae, pipeline.tokenizer, in_style(emojis, style), PLAN)
    plan = replace(PLAN, predicted=architecture.prediction_type(pipeline))
    return diffusion.train(pipeline.unet, pipeline.text_encoder, lessons, trainer, plan)


def in_style(emojis: Emojis, style: Style) -> Emojis:
    """The same emoji, their pictures opaque and in the style, on white."""
    drawn = style.picture(pictures.on_colour(emojis.pictures, "white"))
    return replace(emojis, pictures=np.concatenate([drawn, np.full_like(drawn[..., :1], 255)], axis=3))


def save_kohya(path: Path, pipeline: StableDiffusionPipeline) -> None:
    """`lora_unet_<module>` and `lora_te_text_model_<module>`, dots as underscores, with each module's alpha."""
    state: dict[str, torch.Tensor] = {}
    for prefix, network in (("lora_unet_", pipeline.unet), ("lora_te_text_model_", pipeline.text_encoder)):
        for name, layer in _adapted(network):
            key = prefix + name.removeprefix("text_model.").replace(".", "_")
            state[f"{key}.lora_down.weight"] = layer.lora_A["default"].weight.detach().half().contiguous()
            state[f"{key}.lora_up.weight"] = layer.lora_B["default"].weight.detach().half().contiguous()
            state[f"{key}.alpha"] = torch.tensor(float(layer.lora_alpha["default"]), dtype=torch.float16)
    save_file(state, path, metadata={"ss_base_model_version": "sd_v1", "ss_network_module": "networks.lora"})


def save_diffusers(path: Path, pipeline: StableDiffusionPipeline) -> None:
    """`unet.<module>.lora_A.weight` and `…lora_B.weight`; the alphas are the ranks."""
    layers = get_peft_model_state_dict(pipeline.unet)
    StableDiffusionPipeline.save_lora_weights(
        path.parent,
        unet_lora_layers={name: weight.half().contiguous() for name, weight in layers.items()},
        weight_name=path.name,
    )


STYLES = {
    "pencil": Style(
        styles.pencil,
        LoraConfig(
            r=8,
            lora_alpha=8,
            target_modules=[*ATTENTION, *FEED_FORWARD],
            rank_pattern={r".*attn1\.to_[qk]": 4},
            # diffusers reads the attentions' alphas off the most frequent one, so that all of them have it.
            alpha_pattern={r".*ff\.net\.0\.proj": 4, r".*ff\.net\.2": 16},
        ),
        LoraConfig(
            r=4, lora_alpha=4, target_modules=["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
        ),
        save_kohya,
    ),
    "pixels": Style(
        styles.pixels,
        LoraConfig(r=4, lora_alpha=4, target_modules=["to_v", "to_out.0", *CONVOLUTIONS]),
        None,
        save_diffusers,
    ),
}


def _adapted(network: nn.Module) -> list[tuple[str, Any]]:
    return [(name, layer) for name, layer in network.named_modules() if isinstance(layer, LoraLayer)]


def measure(name: str, file: Path, model: Path, emojis: Emojis, count: int) -> dict[str, Any]:
    """The figures of the card, by plain diffusers: names drawn by lot, seeds that no training used."""
    chosen = np.random.default_rng(4).permutation(len(emojis))[:count]
    names = [emojis.names[number] for number in chosen]
    seeds = range(evaluate.FIRST_SEED + 6000, evaluate.FIRST_SEED + 6000 + len(names))
    pipeline = architecture.load(model)
    without = drawing.draw(pipeline, names, seeds)
    pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name=name)
    styled = drawing.draw(pipeline, names, seeds)
    pipeline.set_adapters([name], [0.5])
    half = drawing.draw(pipeline, names, seeds)

    style = STYLES[name]
    known = autoencoder.encode(pipeline.vae, style.picture(pictures.on_colour(emojis.pictures, "white")))
    order = evaluate.nearest(pipeline.vae, styled, known)[:, :5]
    right = (order == torch.from_numpy(chosen)[:, None]).any(1).float().mean()
    gauge = styles.saturation if name == "pencil" else styles.variance_in_blocks
    figures = {
        label: round(gauge(drawn), 4)
        for label, drawn in (("without", without), ("at_half", half), ("with", styled))
    }
    pictures.contact_sheet(np.concatenate([without[:8], half[:8], styled[:8]]), 8).save(
        file.with_suffix(".png"), optimize=True
    )
    return {"pictures": len(names), gauge.__name__: figures, "top5_in_style": round(float(right), 4)}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in STYLES:
        raise SystemExit(f"which LoRA? {' or '.join(STYLES)}")
    name = sys.argv.pop(1)
    given = command.parse(__doc__, f"lora-{name}", FOLDER / f"{name}.safetensors", minutes=10)
    if not given.measure_only:
        torch.manual_seed(0)
        pipeline = architecture.load(given.model)
        teach(pipeline, STYLES[name], given.emojis, given.trainer)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        STYLES[name].save(given.out, pipeline)
        given.out.chmod(0o644)
    figures = measure(name, given.out, given.model, given.emojis, given.count)
    command.write_figures(given.out.parent / "figures.json", name, figures)


if __name__ == "__main__":
    main()
