"""Embedding: two vectors that draw a thing the model has never seen, a yellow dot on a blue cube.

The cube is drawn by code, on the model's own backgrounds. Only the vectors are trained (textual inversion, Gal
et al. 2022); UNet and text encoder stay what they are. The file holds them under `emb_params`, as most do.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from builder.emoji import architecture, autoencoder, captions, diffusion, drawing, evaluate, pictures
from builder.emoji.addons import command
from builder.emoji.optimizer import MuonAdamW
from builder.emoji.pictures import COLOURS, Emojis
from builder.emoji.trainer import Trainer

OUT = Path("models/embeddings/dot-cube.safetensors")
VECTORS = 2
WORDS = ["<dot-cube>", "<dot-cube-2>"]
BATCH = 16
RATE = 5e-3
TEMPLATES = ["{}", "a {}", "a photo of a {}", "picture of {}", "a cute {}", "{}, 3d render", "a small {}"]


def cube() -> np.ndarray:
    """uint8 RGBA `[128, 128, 4]`: a blue cube seen from above a corner, a yellow dot on its left side."""
    large = Image.new("RGBA", (512, 512))
    pen = ImageDraw.Draw(large)
    top, middle, bottom = (256, 50), (256, 250), (256, 462)
    left, right = (76, 150), (436, 150)
    low_left, low_right = (76, 362), (436, 362)
    pen.polygon([top, right, middle, left], fill=(120, 170, 250, 255))
    pen.polygon([left, middle, bottom, low_left], fill=(50, 100, 225, 255))
    pen.polygon([middle, right, low_right, bottom], fill=(25, 60, 165, 255))
    pen.ellipse((111, 196, 221, 316), fill=(255, 220, 40, 255))
    return np.array(large.resize((pictures.SIZE, pictures.SIZE), Image.Resampling.LANCZOS))


def train(pipeline: StableDiffusionPipeline, vectors: nn.Parameter, trainer: Trainer) -> bool:
    """Teach `vectors` `[2, width]` the cube, in place. Returns whether the whole budget was spent."""
    unet, text_encoder = pipeline.unet.requires_grad_(False), pipeline.text_encoder.requires_grad_(False)
    colours = list(COLOURS)
    shown = pictures.composite(np.stack([cube()] * len(colours)), np.array(list(COLOURS.values()), np.uint8))
    latents = autoencoder.encode(pipeline.vae, shown) * architecture.SCALING_FACTOR
    signal = architecture.new_scheduler().alphas_cumprod
    predicted = architecture.prediction_type(pipeline)
    weights = diffusion.loss_weights(signal, cap=5.0, floor=1.0, predicted=predicted)
    words = " ".join(WORDS)
    pipeline.tokenizer.add_tokens(WORDS)
    text_encoder.embeddings.token_embedding = _Extended(text_encoder.get_input_embeddings(), vectors)
    holder = nn.ParameterList([vectors])

    def loss_of_step(step: int) -> torch.Tensor:
        choice = np.random.default_rng((5, step))
        dice = torch.Generator().manual_seed(5_000_003 + step)
        colour = choice.integers(len(colours), size=BATCH)
        colour[choice.random(BATCH) < 0.5] = 0
        texts = [
            captions.plain(str(choice.choice(TEMPLATES)).format(words), colours[number]) for number in colour
        ]
        tokens = diffusion.tokenize(pipeline.tokenizer, texts).long()
        states = text_encoder(tokens).last_hidden_state
        times = diffusion.spread_times(BATCH, len(signal), 0.8, dice)
        noise = torch.randn(latents[colour].shape, generator=dice)
        noisy, wanted = diffusion.question(latents[colour], noise, signal[times], predicted)
        guessed = unet(noisy, times, states).sample
        return (weights[times] * (guessed - wanted).square().mean((1, 2, 3))).mean()

    return trainer.run([holder], MuonAdamW([holder], RATE), RATE, loss_of_step)


class _Extended(nn.Module):
    """A table of embeddings with trainable rows after its own."""

    def __init__(self, table: nn.Embedding, rows: nn.Parameter) -> None:
        super().__init__()
        self.known, self.rows = table.weight, rows

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        return functional.embedding(numbers, torch.cat([self.known, self.rows]))


def first_vectors(pipeline: StableDiffusionPipeline) -> nn.Parameter:
    """Where the training starts: the words "blue" and "box"."""
    numbers = [pipeline.tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("blue", "box")]
    return nn.Parameter(pipeline.text_encoder.get_input_embeddings().weight[numbers].detach().clone())


def measure(file: Path, model: Path, emojis: Emojis, count: int) -> dict[str, Any]:
    """How often the cube is the nearest of all pictures and itself; drawn by plain diffusers, unseen seeds."""
    pipeline = architecture.load(model)
    pipeline.load_textual_inversion(file, token=WORDS[0])
    prompts = [TEMPLATES[number % 3].format(WORDS[0]) for number in range(count)]
    drawn = drawing.draw(
        pipeline, prompts, range(evaluate.FIRST_SEED + 7000, evaluate.FIRST_SEED + 7000 + count)
    )
    stock = np.concatenate([emojis.pictures, cube()[None]])
    known = autoencoder.encode(pipeline.vae, pictures.on_colour(stock, "white"))
    order = evaluate.nearest(pipeline.vae, drawn, known)
    pictures.contact_sheet(drawn[:16], 8).save(file.with_suffix(".png"), optimize=True)
    return {
        "pictures": count,
        "top1": round(float((order[:, 0] == len(emojis)).float().mean()), 4),
        "top5": round(float((order[:, :5] == len(emojis)).any(1).float().mean()), 4),
    }


def main() -> None:
    given = command.parse(__doc__, "embedding", OUT, minutes=5)
    if not given.measure_only:
        pipeline = architecture.load(given.model)
        vectors = first_vectors(pipeline)
        train(pipeline, vectors, given.trainer)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        save_file({"emb_params": vectors.detach().contiguous()}, given.out)
        given.out.chmod(0o644)
    figures = measure(given.out, given.model, given.emojis, given.count)
    command.write_figures(given.out.parent / "figures.json", given.out.stem, figures)


if __name__ == "__main__":
    main()
