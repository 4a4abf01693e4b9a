"""ControlNet `edges`: the picture follows the edges of a hint, the prompt decides what it is and its colour.

The model knows one picture a name; so that the hint has something to say, lessons are emoji that were mirrored,
moved, turned and resized, and plain shapes of plain colours, each with the edges of just that picture.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionPipeline
from PIL import Image, ImageDraw
from torch.nn import functional

from builder.emoji import architecture, autoencoder, captions, diffusion, drawing, evaluate, pictures
from builder.emoji.addons import command
from builder.emoji.optimizer import MuonAdamW
from builder.emoji.pictures import COLOURS, Emojis
from builder.emoji.precision import amp
from builder.emoji.trainer import Trainer

OUT = Path("models/controlnets/edges")
BATCH = 16
RATE = 2e-3
SHAPE_SHARE = 0.35
SHAPES = ("circle", "square", "triangle", "ring", "star", "cross")
THRESHOLD = 40
"""How steep the brightest colour's slope must be for an edge, in levels from one pixel to the next."""


def new_controlnet(pipeline: StableDiffusionPipeline) -> ControlNetModel:
    """The UNet's own first half, and a hint of `[n, 3, 128, 128]`, 0 to 1, brought to its 16 x 16."""
    return ControlNetModel.from_unet(pipeline.unet, conditioning_embedding_out_channels=(8, 16, 32, 48))


def edges(rgb: np.ndarray) -> np.ndarray:
    """White edges on black, uint8 `[n, h, w, 3]`: Sobel's slope of the steepest colour, above a threshold."""
    smooth = torch.from_numpy(rgb).permute(0, 3, 1, 2).float()
    smooth = functional.avg_pool2d(functional.pad(smooth, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 4
    kernel = torch.stack([across, across.T])[:, None]
    slopes = functional.conv2d(
        functional.pad(smooth.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate"), kernel
    )
    steepest = slopes.square().sum(1).sqrt().view(smooth.shape).amax(1)
    return ((steepest > THRESHOLD).byte() * 255)[..., None].expand(-1, -1, -1, 3).numpy()


def edge_f1(drawn: np.ndarray, hint: np.ndarray, reach: int = 2) -> float:
    """F1 of a picture's edges against a hint's, each within `reach` pixels of the other; mean over pictures."""
    found, wanted = (torch.from_numpy(one[..., 0] > 0).float()[:, None] for one in (edges(drawn), hint))
    near_found, near_wanted = (
        functional.max_pool2d(one, 2 * reach + 1, stride=1, padding=reach) for one in (found, wanted)
    )
    precision = (found * near_wanted).sum((1, 2, 3)) / found.sum((1, 2, 3)).clamp(min=1)
    recall = (wanted * near_found).sum((1, 2, 3)) / wanted.sum((1, 2, 3)).clamp(min=1)
    return float((2 * precision * recall / (precision + recall).clamp(min=1e-9)).mean())


def draw_shape(kind: str, colour: tuple[int, int, int], choice: np.random.Generator) -> np.ndarray:
    """uint8 RGB `[128, 128, 3]`: one of SHAPES somewhere on white."""
    side = pictures.SIZE
    picture = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(picture)
    radius = int(choice.integers(24, 50))
    x, y = (int(choice.integers(radius + 6, side - radius - 6)) for _ in range(2))
    box = (x - radius, y - radius, x + radius, y + radius)
    turn = float(choice.uniform(0, 360))
    if kind == "circle":
        pen.ellipse(box, fill=colour)
    elif kind == "ring":
        pen.ellipse(box, outline=colour, width=max(6, radius // 3))
    elif kind in ("square", "triangle"):
        pen.regular_polygon((x, y, radius), 4 if kind == "square" else 3, rotation=turn, fill=colour)
    elif kind == "star":
        angles = np.radians(turn + np.arange(10) * 36)
        radii = radius * np.where(np.arange(10) % 2, 0.45, 1.0)
        pen.polygon(
            [(x + r * np.cos(a), y + r * np.sin(a)) for a, r in zip(angles, radii, strict=True)], fill=colour
        )
    else:
        arm = radius // 3
        pen.rectangle((x - radius, y - arm, x + radius, y + arm), fill=colour)
        pen.rectangle((x - arm, y - radius, x + arm, y + radius), fill=colour)
    return np.array(picture)


def move(rgba: np.ndarray, choice: np.random.Generator) -> np.ndarray:
    """An emoji uint8 RGBA `[128, 128, 4]` on white, mirrored, turned, resized and moved at random."""
    picture = Image.fromarray(rgba)
    if choice.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    side = int(choice.integers(72, 128))
    picture = picture.rotate(float(choice.uniform(-25, 25)), Image.Resampling.BICUBIC).resize((side, side))
    ground = Image.new("RGBA", (pictures.SIZE, pictures.SIZE), "white")
    ground.alpha_composite(picture, tuple(choice.integers(0, pictures.SIZE - side + 1, 2).tolist()))
    return np.array(ground.convert("RGB"))


def lessons_of_step(emojis: Emojis, step: int) -> tuple[np.ndarray, list[str]]:
    """One step's pictures `[16, 128, 128, 3]` and captions."""
    choice = np.random.default_rng((6, step))
    named = [name for name in COLOURS if name != captions.WHITE]
    shown, texts = [], []
    for _ in range(BATCH):
        if choice.random() < SHAPE_SHARE:
            kind, colour = str(choice.choice(SHAPES)), str(choice.choice(named))
            shown.append(draw_shape(kind, COLOURS[colour], choice))
            texts.append(str(choice.choice([f"{colour} {kind}", colour, f"a {colour} {kind}"])))
        else:
            number = int(choice.integers(len(emojis)))
            shown.append(move(emojis.pictures[number], choice))
            texts.append(emojis.names[number] if choice.random() < 0.9 else "")
    return np.stack(shown), texts


def train(pipeline: StableDiffusionPipeline, net: ControlNetModel, emojis: Emojis, trainer: Trainer) -> bool:
    """Train the ControlNet alone, in place. Returns whether the whole budget was spent."""
    for frozen in (pipeline.unet, pipeline.text_encoder, pipeline.vae):
        frozen.requires_grad_(False)
    signal = architecture.new_scheduler().alphas_cumprod
    predicted = architecture.prediction_type(pipeline)
    weights = diffusion.loss_weights(signal, cap=5.0, floor=1.0, predicted=predicted)

    def loss_of_step(step: int) -> torch.Tensor:
        dice = torch.Generator().manual_seed(6_000_003 + step)
        shown, texts = lessons_of_step(emojis, step)
        latents = autoencoder.encode(pipeline.vae, shown) * architecture.SCALING_FACTOR
        hint = torch.from_numpy(edges(shown)).permute(0, 3, 1, 2).float() / 255
        tokens = diffusion.tokenize(pipeline.tokenizer, texts).long()
        times = diffusion.spread_times(BATCH, len(signal), 0.7, dice)
        noise = torch.randn(latents.shape, generator=dice)
        noisy, wanted = diffusion.question(latents, noise, signal[times], predicted)
        with amp(trainer.device):
            states = pipeline.text_encoder(tokens).last_hidden_state
            down, middle = net(noisy, times, states, controlnet_cond=hint, return_dict=False)
            guessed = pipeline.unet(
                noisy,
                times,
                states,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
            ).sample
        return (weights[times] * (guessed.float() - wanted).square().mean((1, 2, 3))).mean()

    return trainer.run([net], MuonAdamW([net], RATE), RATE, loss_of_step)


def draw(folder: Path, model: Path, prompts: list[str], hints: np.ndarray) -> np.ndarray:
    """Pictures by plain diffusers from the saved files, seeds that no training used."""
    plain = architecture.load(model)
    net = ControlNetModel.from_pretrained(folder, dtype=torch.float32)
    whole = StableDiffusionControlNetPipeline(
        **plain.components, controlnet=net, requires_safety_checker=False
    )
    whole.set_progress_bar_config(disable=True)
    drawn = []
    for number, (prompt, hint) in enumerate(zip(prompts, hints, strict=True)):
        image = whole(
            prompt,
            image=Image.fromarray(hint),
            num_inference_steps=drawing.STEPS,
            guidance_scale=drawing.GUIDANCE,
            generator=torch.Generator().manual_seed(evaluate.FIRST_SEED + 8000 + number),
        ).images[0]
        drawn.append(np.asarray(image))
    return np.stack(drawn)


def measure(folder: Path, model: Path, emojis: Emojis, count: int) -> dict[str, Any]:
    """F1 of edges with and without it, on moved emoji; and whether red and blue shapes have those colours."""
    choice = np.random.default_rng(8)
    numbers = choice.permutation(len(emojis))[:count]
    names = [emojis.names[number] for number in numbers]
    hints = edges(np.stack([move(emojis.pictures[number], choice) for number in numbers]))
    led = draw(folder, model, names, hints)
    seeds = range(evaluate.FIRST_SEED + 8000, evaluate.FIRST_SEED + 8000 + count)
    without = drawing.draw(architecture.load(model), names, seeds)

    kinds = [SHAPES[number % len(SHAPES)] for number in range(12)]
    shapes = edges(np.stack([draw_shape(kind, COLOURS["black"], choice) for kind in kinds]))
    right = []
    coloured = []
    for colour in ("red", "blue"):
        drawn = draw(folder, model, [f"{colour} {kind}" for kind in kinds], shapes)
        coloured.append(drawn)
        for picture in drawn:
            strong = picture[picture.max(2).astype(int) - picture.min(2) > 60]
            mean = strong.mean(0) if len(strong) else np.zeros(3)
            right.append(bool(mean.argmax() == (0 if colour == "red" else 2)))
    pictures.contact_sheet(
        np.concatenate([hints[:8], led[:8], without[:8], shapes[:8], coloured[0][:8], coloured[1][:8]]), 8
    ).save(folder / "sheet.png", optimize=True)
    return {
        "pictures": count,
        "edge_f1": round(edge_f1(led, hints), 4),
        "edge_f1_without": round(edge_f1(without, hints), 4),
        "colour_as_asked": round(float(np.mean(right)), 4),
    }


def main() -> None:
    given = command.parse(__doc__, "controlnet", OUT, minutes=60)
    if not given.measure_only:
        torch.manual_seed(0)
        pipeline = architecture.load(given.model)
        net = new_controlnet(pipeline)
        train(pipeline, net, given.emojis, given.trainer)
        net.half().save_pretrained(given.out)
        for file in given.out.iterdir():
            file.chmod(0o644)
    figures = measure(given.out, given.model, given.emojis, given.count)
    command.write_figures(given.out / "figures.json", given.out.name, figures)


if __name__ == "__main__":
    main()
