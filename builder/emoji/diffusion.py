"""Second training: the UNet and the text encoder together, on latents computed once.

Standard pieces: noise or velocity prediction on Stable Diffusion's schedule, min-SNR weighting, 8 % empty
captions for guidance, averaged weights. One thing is added to min-SNR: a floor. Which emoji it will be is decided
in the first steps, where there is almost only noise and min-SNR alone counts an error in the picture for nothing.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from builder.emoji import architecture, autoencoder, captions, drawing, pictures, tokenizer
from builder.emoji.optimizer import MuonAdamW
from builder.emoji.pictures import COLOURS, Emojis
from builder.emoji.precision import amp, suited
from builder.emoji.trainer import Trainer

SAMPLE_PROMPTS = [
    "dog face",
    "a cute fluffy white dog in the style of a Pixar animation",
    "pizza",
    "red heart",
    "rocket",
    "frog",
    "strawberry",
    "sunflower on a blue background",
    "cat with tears of joy",
    "penguin",
    "robot",
    "a photo of a dragon",
    "hamburger",
    "elephant",
    "grinning face on a red background",
    "guitar",
    "woman astronaut",
    "house",
    "automobile",
    "key",
    "ghost on a black background",
    "christmas tree",
    "thumbs up",
    "soccer ball",
    "crown",
    "octopus",
    "hot beverage",
    "person running",
    "blue book",
    "alarm clock",
    "unicorn",
    "red apple on a green background",
]


@dataclass(frozen=True)
class DiffusionPlan:
    """What can be set."""

    batch: int = 32
    rate: float = 2.5e-3
    colours: int = 3
    captions: int = 32
    white_share: float = 0.7
    empty_share: float = 0.08
    snr_cap: float = 5.0
    snr_floor: float = 1.0
    noisy_share: float = 0.7
    group_weights: tuple[tuple[int, float], ...] = ()
    seed: int = 0
    compiled: bool = False
    predicted: str = architecture.PREDICTION_TYPE


@dataclass(frozen=True)
class Lessons:
    """What is learned: for each of n emoji, v backgrounds (the first is white), k captions each.

    `latents` `[n, v, 4, 16, 16]` (unit deviation), `tokens` `[n, v, k, 77]`, `empty` `[77]`, and how
    often each emoji has its turn, `shares` `[n]`.
    """

    latents: torch.Tensor
    tokens: torch.Tensor
    empty: torch.Tensor
    shares: torch.Tensor

    def to(self, device: torch.device) -> "Lessons":
        return replace(
            self, latents=self.latents.to(device), tokens=self.tokens.to(device), empty=self.empty.to(device)
        )


def make_lessons(vae: AutoencoderKL, words: CLIPTokenizer, emojis: Emojis, plan: DiffusionPlan) -> Lessons:
    """Encode every emoji on white and on `plan.colours` other colours, and write captions for each."""
    choice = random.Random(plan.seed)
    others = [colour for colour in COLOURS if colour != captions.WHITE]
    colours = [[captions.WHITE, *choice.sample(others, plan.colours)] for _ in emojis.names]

    latents = []
    for start in range(0, len(emojis), 64):
        part = slice(start, start + 64)
        several = [
            pictures.composite(
                emojis.pictures[part], np.array([COLOURS[of[place]] for of in colours[part]], np.uint8)
            )
            for place in range(plan.colours + 1)
        ]
        flat = autoencoder.encode(vae, np.stack(several, 1).reshape(-1, pictures.SIZE, pictures.SIZE, 3))
        latents.append((flat * architecture.SCALING_FACTOR).unflatten(0, (-1, plan.colours + 1)))

    texts = [
        captions.caption(name, tags, colour, choice)
        for name, tags, own in zip(emojis.names, emojis.tags, colours, strict=True)
        for colour in own
        for _ in range(plan.captions)
    ]
    shares = shares_by_group(emojis.groups, dict(plan.group_weights))
    shape = (len(emojis), plan.colours + 1, plan.captions, tokenizer.POSITIONS)
    return Lessons(torch.cat(latents), tokenize(words, texts).view(shape), tokenize(words, [""])[0], shares)


def tokenize(words: CLIPTokenizer, texts: Sequence[str]) -> torch.Tensor:
    """`[n, 77]`, padded as the pipeline pads."""
    parts = []
    for start in range(
        0, len(texts), 8192
    ):  # the tokenizer's own answer is a hundred times the size of its ids
        part = list(texts[start : start + 8192])
        ids = words(part, padding="max_length", max_length=tokenizer.POSITIONS, truncation=True).input_ids
        parts.append(torch.from_numpy(np.array(ids, np.int16)))
    return torch.cat(parts)


def train(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    lessons: Lessons,
    trainer: Trainer,
    plan: DiffusionPlan,
    pipeline: StableDiffusionPipeline | None = None,
) -> bool:
    """Train in place until the budget is spent; `pipeline`, of the same networks, draws the sample sheets.

    Returns whether the whole budget was spent.
    """
    lessons = lessons.to(trainer.device)
    signal = architecture.new_scheduler().alphas_cumprod.to(trainer.device)
    weights = loss_weights(signal, plan.snr_cap, plan.snr_floor, plan.predicted)
    optimizer = MuonAdamW([unet, text_encoder], plan.rate)

    def guess(noisy: torch.Tensor, times: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return unet(noisy, times, text_encoder(tokens).last_hidden_state).sample

    if plan.compiled:
        guess = torch.compile(guess)

    def loss_of_step(step: int) -> torch.Tensor:
        latents, tokens = _draw_lessons(lessons, plan, step)
        dice = torch.Generator(trainer.device).manual_seed(plan.seed * 1_000_003 + step)
        times = spread_times(len(latents), len(signal), plan.noisy_share, dice)
        noise = torch.randn(latents.shape, generator=dice, device=trainer.device)
        noisy, wanted = question(latents, noise, signal[times], plan.predicted)
        with amp(trainer.device):
            guessed = guess(noisy, times, tokens)
        errors = functional.mse_loss(guessed.float(), wanted, reduction="none").mean((1, 2, 3))
        return (weights[times] * errors).mean()

    def draw_samples() -> np.ndarray:
        if pipeline is None:
            raise RuntimeError("no pipeline to draw with")
        return drawing.draw(pipeline, SAMPLE_PROMPTS, range(len(SAMPLE_PROMPTS)))

    with suited(unet, text_encoder, trainer.device):
        return trainer.run(
            [unet, text_encoder], optimizer, plan.rate, loss_of_step, draw_samples if pipeline else None
        )


def question(
    latents: torch.Tensor, noise: torch.Tensor, signal: torch.Tensor, predicted: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy latents and what the UNet is to say to them, both `[n, 4, h, w]`; `signal` `[n]` is alpha squared.

    Velocity is alpha times the noise minus sigma times the picture (Salimans and Ho, 2022).
    """
    alpha, sigma = (part.sqrt()[:, None, None, None] for part in (signal, 1 - signal))
    wanted = noise if predicted == "epsilon" else alpha * noise - sigma * latents
    return alpha * latents + sigma * noise, wanted


def loss_weights(signal: torch.Tensor, cap: float, floor: float, predicted: str) -> torch.Tensor:
    """Weights `[1000]` of the prediction's squared error: the picture's error counts min(SNR, cap) + floor."""
    snr = signal / (1 - signal)
    return (snr.clamp(max=cap) + floor) / (snr if predicted == "epsilon" else snr + 1)


def save_lessons(lessons: Lessons, path: Path) -> None:
    """As one file, moved into place when complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    torch.save(vars(lessons) | {"latents": lessons.latents.half()}, beside)
    beside.replace(path)


def load_lessons(path: Path) -> Lessons:
    """What `save_lessons` wrote."""
    state = torch.load(path, weights_only=True)
    return Lessons(**state | {"latents": state["latents"].float()})


def _draw_lessons(lessons: Lessons, plan: DiffusionPlan, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents `[batch, 4, 16, 16]`, tokens `[batch, 77]`: one step's lessons."""
    emojis, backgrounds, several = lessons.tokens.shape[:3]
    choice = np.random.default_rng((plan.seed, step))
    chosen = choice.choice(emojis, size=plan.batch, p=lessons.shares.double().cpu().numpy())
    background = choice.integers(1, max(2, backgrounds), size=plan.batch)
    background[(choice.random(plan.batch) < plan.white_share) | (backgrounds == 1)] = 0
    caption = choice.integers(several, size=plan.batch)

    device = lessons.latents.device
    at = [torch.from_numpy(numbers).to(device) for numbers in (chosen, background, caption)]
    tokens = lessons.tokens[at[0], at[1], at[2]]
    empty = torch.from_numpy(choice.random(plan.batch) < plan.empty_share).to(device)
    return lessons.latents[at[0], at[1]], torch.where(empty[:, None], lessons.empty, tokens).long()


def spread_times(count: int, steps: int, noisy_share: float, dice: torch.Generator) -> torch.Tensor:
    """`count` timesteps, evenly over both halves of the schedule, `noisy_share` of them in the upper one."""
    places = (
        torch.arange(count, device=dice.device) + torch.rand(count, generator=dice, device=dice.device)
    ) / count
    clean = 1 - noisy_share
    lower = places / max(clean, 1e-9) * 0.5
    upper = 0.5 + (places - clean) / max(noisy_share, 1e-9) * 0.5
    return (torch.where(places < clean, lower, upper) * steps).long().clamp(max=steps - 1)


def shares_by_group(groups: np.ndarray, weights: Mapping[int, float]) -> torch.Tensor:
    """How often each emoji is seen, `[n]`, summing to 1; groups not named weigh 1."""
    each = torch.tensor([weights.get(int(group), 1.0) for group in groups], dtype=torch.float64)
    return each / each.sum()
