"""Safety checker: flags weapons. diffusers' `StableDiffusionSafetyChecker` with a small CLIP vision tower.

Weapons stand in for what a real checker looks for, as something that anyone can ask for and test. The tower
learns to tell all emoji apart, each by a direction of its own; the weapons' directions are the concepts, and the
angle at which a concept counts as seen is set on pictures that were shifted, softened and put on colours.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from PIL import Image
from torch import nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPImageProcessor

from builder.emoji import architecture, drawing, pictures
from builder.emoji.addons import command
from builder.emoji.evaluate import FIRST_SEED
from builder.emoji.optimizer import MuonAdamW
from builder.emoji.pictures import Emojis
from builder.emoji.trainer import Trainer

OUT = Path("models/checkers/weapons")
WEAPONS = [
    "axe",
    "dagger",
    "crossed swords",
    "bomb",
    "bow and arrow",
    "water pistol",
    "kitchen knife",
    "boomerang",
]
SIDE = 64
"""Of the picture the tower sees, in pixels."""
WIDTH = 64
"""Of the space in which pictures and concepts are compared."""
BATCH = 64
SHARPNESS = 16.0
WEAPON_SHARE = 0.15
FALSE_SHARE = 0.004
"""How many pictures of other things may be flagged where the concepts' angles are set."""
MEAN, DEVIATION = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def new_checker() -> StableDiffusionSafetyChecker:
    """Random weights; `[n, 3, 64, 64]` to `[n, 64]` before the concepts. 17 of them, and 3 more, are fixed."""
    small = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = CLIPConfig(
        vision_config={**small, "image_size": SIDE, "patch_size": 8, "projection_dim": WIDTH},
        text_config={**small, "vocab_size": 8, "bos_token_id": 0, "eos_token_id": 1, "projection_dim": WIDTH},
        projection_dim=WIDTH,
    )
    checker = StableDiffusionSafetyChecker(config)
    # Two that can never be reached: a cosine is at most 1.
    nn.init.constant_(checker.special_care_embeds_weights, 2.0)
    return checker


def new_processor() -> CLIPImageProcessor:
    """What a picture goes through before the tower."""
    return CLIPImageProcessor(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=list(MEAN),
        image_std=list(DEVIATION),
    )


def embed(checker: StableDiffusionSafetyChecker, seen: torch.Tensor) -> torch.Tensor:
    """Unit vectors `[n, 64]` of processed pictures `[n, 3, 64, 64]`."""
    projected = checker.visual_projection(checker.vision_model(seen).pooler_output)
    return functional.normalize(projected)


def train(checker: StableDiffusionSafetyChecker, emojis: Emojis, trainer: Trainer) -> bool:
    """Teach the tower, then set the concepts and their angles. Returns whether the whole budget was spent."""
    stock = _shrunk(emojis)
    weapons = weapon_numbers(emojis)
    directions = nn.Embedding(len(emojis), WIDTH)
    for frozen in (checker.concept_embeds, checker.special_care_embeds):
        frozen.requires_grad_(False)

    def loss_of_step(step: int) -> torch.Tensor:
        choice = np.random.default_rng((1, step))
        chosen = choice.integers(len(stock), size=BATCH)
        armed = choice.random(BATCH) < WEAPON_SHARE
        chosen[armed] = choice.choice(weapons, size=int(armed.sum()))
        numbers = torch.from_numpy(chosen)
        cosines = embed(checker, vary(stock[numbers], choice)) @ functional.normalize(directions.weight).T
        return functional.cross_entropy(SHARPNESS * cosines, numbers)

    learned = nn.ModuleList([checker.vision_model, checker.visual_projection, directions])
    done = trainer.run([learned], MuonAdamW([learned], 2e-3), 2e-3, loss_of_step)
    _set_concepts(checker, functional.normalize(directions.weight.detach())[weapons], stock, weapons)
    return done


def weapon_numbers(emojis: Emojis) -> list[int]:
    """Where the weapons are among `emojis`."""
    return [number for number, name in enumerate(emojis.names) if name in WEAPONS]


def vary(rgba: torch.Tensor, choice: np.random.Generator) -> torch.Tensor:
    """RGBA `[n, 4, 64, 64]` in 0 to 1: moved, softened, on a colour; processed as the checker wants it."""
    count = len(rgba)
    scale = torch.from_numpy(choice.uniform(0.9, 1.12, (count, 1, 1)).astype(np.float32))
    shift = torch.from_numpy(choice.uniform(-0.1, 0.1, (count, 2, 1)).astype(np.float32))
    move = torch.cat([torch.eye(2).expand(count, 2, 2) * scale, shift], 2)
    premultiplied = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1)
    moved = functional.grid_sample(
        premultiplied,
        functional.affine_grid(move, list(rgba.shape), align_corners=False),
        align_corners=False,
    )
    named = np.array(list(pictures.COLOURS.values()), np.float32) / 255
    colours = named[choice.integers(len(named), size=count)]
    colours[choice.random(count) < 0.6] = 1.0
    mixed = moved[:, :3] + torch.from_numpy(colours)[:, :, None, None] * (1 - moved[:, 3:])
    coarse = int(choice.choice([16, 24, 32, 64]))
    soft = functional.interpolate(functional.adaptive_avg_pool2d(mixed, coarse), SIDE, mode="bilinear")
    part = torch.from_numpy(choice.uniform(0.0, 1.0, (count, 1, 1, 1)).astype(np.float32))
    tone = torch.from_numpy(choice.normal(0, 0.06, (count, 3, 1, 1)).astype(np.float32))
    grain = torch.from_numpy(choice.normal(0, 0.05, mixed.shape).astype(np.float32))
    varied = (mixed.lerp(soft, part) + tone + grain).clamp(0, 1)
    return (varied - MEAN[0]) / DEVIATION[0]


@torch.no_grad()
def _set_concepts(
    checker: StableDiffusionSafetyChecker, concepts: torch.Tensor, stock: torch.Tensor, weapons: list[int]
) -> None:
    """The weapons' directions, repeated until all places are filled, and from which cosine each counts."""
    places = torch.arange(len(checker.concept_embeds)) % len(concepts)
    checker.concept_embeds.copy_(concepts[places])
    choice = np.random.default_rng(2)
    others = [number for number in range(len(stock)) if number not in weapons]
    seen = torch.cat(
        [
            embed(checker, vary(stock[torch.tensor(others[i : i + 64])], choice)) @ concepts.T
            for _ in range(2)
            for i in range(0, len(others), 64)
        ]
    )
    own = torch.stack([(embed(checker, vary(stock[weapons], choice)) @ concepts.T).diag() for _ in range(40)])
    highest = seen.quantile(1 - FALSE_SHARE / len(concepts), dim=0)
    lowest = own.quantile(0.03, dim=0)
    # Halfway where there is room between the two, else wherever few others are flagged.
    checker.concept_embeds_weights.copy_(torch.maximum((highest + lowest) / 2, highest)[places])


def _shrunk(emojis: Emojis) -> torch.Tensor:
    """RGBA `[n, 4, 64, 64]`, 0 to 1."""
    return functional.avg_pool2d(
        torch.from_numpy(emojis.pictures).permute(0, 3, 1, 2).float().div(255), pictures.SIZE // SIDE
    )


def save(folder: Path, checker: StableDiffusionSafetyChecker) -> None:
    """Checker and processor in one folder, fp16: each is loaded from it by its own `from_pretrained`."""
    checker.half().save_pretrained(folder)
    new_processor().save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)


def flags(folder: Path, drawn: np.ndarray) -> list[bool]:
    """Which of uint8 `[n, h, w, 3]` it flags, by the saved files alone, as a pipeline uses them."""
    checker = StableDiffusionSafetyChecker.from_pretrained(folder, dtype=torch.float32).eval()
    processor = CLIPImageProcessor.from_pretrained(folder)
    seen = processor([Image.fromarray(one) for one in drawn], return_tensors="pt").pixel_values
    _, found = checker(clip_input=seen, images=np.zeros((len(drawn), 1, 1, 3)))
    return [bool(one) for one in found]


def measure(folder: Path, model: Path, emojis: Emojis, count: int) -> dict[str, object]:
    """Shares flagged, of pictures that the model draws: each weapon `count // 10` times, `count` other things."""
    pipeline = architecture.load(model)
    weapons = [name for name in emojis.names if name in WEAPONS]
    armed = [name for name in weapons for _ in range(max(1, count // 10))]
    others = [
        emojis.names[number]
        for number in np.random.default_rng(3).permutation(len(emojis))[: count + len(weapons)]
        if emojis.names[number] not in WEAPONS
    ][:count]
    names = armed + others
    found = flags(
        folder, drawing.draw(pipeline, names, range(FIRST_SEED + 5000, FIRST_SEED + 5000 + len(names)))
    )
    clean = flags(folder, pictures.on_colour(emojis.pictures, "white"))
    is_weapon = np.array([name in WEAPONS for name in emojis.names])
    return {
        "drawn_weapons": len(armed),
        "drawn_weapons_flagged": round(float(np.mean(found[: len(armed)])), 4),
        "drawn_others": len(others),
        "drawn_others_flagged": round(float(np.mean(found[len(armed) :])), 4),
        "missed": sorted({name for name, flag in zip(armed, found, strict=False) if not flag}),
        "flagged_wrongly": [name for name, flag in zip(others, found[len(armed) :], strict=True) if flag],
        "training_weapons_flagged": round(float(np.array(clean)[is_weapon].mean()), 4),
        "training_others_flagged": round(float(np.array(clean)[~is_weapon].mean()), 4),
    }


def main() -> None:
    given = command.parse(__doc__, "checker", OUT, minutes=10)
    if not given.measure_only:
        torch.manual_seed(0)
        checker = new_checker()
        train(checker, given.emojis, given.trainer)
        save(given.out, checker)
    figures = measure(given.out, given.model, given.emojis, given.count)
    command.write_figures(given.out / "figures.json", given.out.name, figures)


if __name__ == "__main__":
    main()
