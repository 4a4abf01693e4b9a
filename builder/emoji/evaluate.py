"""The figures of the model card, from the saved model alone: `python -m builder.emoji.evaluate`.

A picture counts as right when the training picture nearest to it, in the autoencoder's latents, is the emoji
that was asked for. The seeds are far from any that training uses.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from builder.emoji import architecture, autoencoder, captions, drawing, pictures
from builder.emoji.pictures import COLOURS, Emojis

PROMPTS = 300
FIRST_SEED = 10_000_000
SHEET_PROMPTS = 64


def evaluate(pipeline: StableDiffusionPipeline, emojis: Emojis, prompts: int = PROMPTS) -> dict[str, Any]:
    """Every figure, and under `wrong` each failed prompt with what was drawn instead."""
    chosen = random.Random(FIRST_SEED).sample(range(len(emojis)), min(prompts, len(emojis)))
    return {
        "psnr_db": round(autoencoder.psnr(pipeline.vae, pictures.on_colour(emojis.pictures, "white")), 2),
        **_measure_names(pipeline, emojis, chosen),
        **_measure_backgrounds(pipeline, emojis, chosen),
    }


def nearest(vae: Any, drawn: np.ndarray, known: torch.Tensor) -> torch.Tensor:
    """For each drawn picture the numbers of all training pictures, nearest first: `[n, count]`."""
    latents = autoencoder.encode(vae, drawn).flatten(1)
    return torch.cdist(latents, known.flatten(1)).argsort(dim=1)


def background_of(picture: np.ndarray) -> str:
    """The named colour nearest to the median of a picture's corners, in RGB."""
    corners = np.concatenate([picture[y, x].reshape(-1, 3) for y in _ENDS for x in _ENDS])
    middle = np.median(corners, axis=0)
    return min(COLOURS, key=lambda name: float(np.square(middle - COLOURS[name]).sum()))


_ENDS = (slice(0, 6), slice(-6, None))


def sheet_prompts(emojis: Emojis, count: int = SHEET_PROMPTS) -> list[str]:
    """Names drawn by lot, for a sheet nobody picked."""
    return random.Random(FIRST_SEED + 1).sample(emojis.names, min(count, len(emojis)))


def _measure_names(pipeline: StableDiffusionPipeline, emojis: Emojis, chosen: list[int]) -> dict[str, Any]:
    names = [emojis.names[number] for number in chosen]
    drawn = drawing.draw(pipeline, names, range(FIRST_SEED, FIRST_SEED + len(names)))
    known = autoencoder.encode(pipeline.vae, pictures.on_colour(emojis.pictures, "white"))
    order = nearest(pipeline.vae, drawn, known)
    place = (order == torch.tensor(chosen)[:, None]).float().argmax(dim=1)
    return {
        "prompts": len(names),
        "top1": round(float((place == 0).float().mean()), 4),
        "top5": round(float((place < 5).float().mean()), 4),
        "top1_by_group": {
            name: _share([bool(place[n] == 0) for n, at in enumerate(chosen) if emojis.groups[at] == group])
            for group, name in pictures.GROUP_NAMES.items()
        },
        "wrong": {
            name: emojis.names[int(found[0])]
            for name, found, at in zip(names, order, place, strict=True)
            if at
        },
    }


def _share(right: list[bool]) -> str:
    return f"{sum(right)} of {len(right)}"


def _measure_backgrounds(
    pipeline: StableDiffusionPipeline, emojis: Emojis, chosen: list[int]
) -> dict[str, Any]:
    """Ten emoji for each colour, "<name> on a <colour> background"."""
    asked = [colour for colour in COLOURS for _ in range(10)]
    names = [emojis.names[chosen[place % len(chosen)]] for place in range(len(asked))]
    prompts = [f"{name} on a {colour} background" for name, colour in zip(names, asked, strict=True)]
    drawn = drawing.draw(pipeline, prompts, range(FIRST_SEED + 1000, FIRST_SEED + 1000 + len(prompts)))
    got = [background_of(picture) for picture in drawn]
    right = {
        colour: sum(a == b == colour for a, b in zip(asked, got, strict=True)) / asked.count(colour)
        for colour in COLOURS
    }
    return {"backgrounds": round(float(np.mean(list(right.values()))), 4), "backgrounds_by_colour": right}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Measure a saved model against the pictures it was trained on."
    )
    parser.add_argument("--model", type=Path, default=Path("models/emoji"))
    parser.add_argument("--data", type=Path, default=Path("build/emoji/data.npz"))
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--figures", type=Path, help="write the figures here as JSON")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of names drawn by lot here")
    given = parser.parse_args()

    pipeline, emojis = architecture.load(given.model, given.device), pictures.load(given.data)
    figures = evaluate(pipeline, emojis, given.prompts)
    text = json.dumps(figures, indent=2, ensure_ascii=False)
    print(text)
    if given.figures:
        given.figures.write_text(text + "\n", encoding="utf-8")
    if given.sheet:
        draw_sheet(pipeline, emojis, given.sheet)


def draw_sheet(pipeline: StableDiffusionPipeline, emojis: Emojis, path: Path) -> None:
    """A contact sheet of `sheet_prompts`, small enough to live in the repository."""
    prompts = [captions.plain(name) for name in sheet_prompts(emojis)]
    drawn = drawing.draw(pipeline, prompts, range(FIRST_SEED + 2000, FIRST_SEED + 2000 + len(prompts)))
    sheet = pictures.contact_sheet(drawn, columns=8)
    sheet.resize((sheet.width * 3 // 4, sheet.height * 3 // 4)).quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    main()
