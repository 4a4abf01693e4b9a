"""The figures of the model card, from the saved model alone: `python -m builder.emoji.evaluate`.

A picture counts as right when the training picture nearest to it, in the autoencoder's latents, is the emoji
that was asked for. A free prompt asks for a noun in words that no caption has; its picture counts as right when
one of the nearest five has that noun in its name or among its tags. The seeds are far from any that training
uses.
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
FREE_TEMPLATES = [
    "{plural} that everybody loves",
    "two {plural}",
    "{article} launching into space",
    "a cute fluffy white {noun} in the style of a Pixar animation",
    "my old {noun} with a scratch",
    "please draw me {article} on a wooden desk",
    "{article}, golden hour, wide angle",
    "the best {noun} ever seen on this planet",
    "{article} coming home after a long journey",
    "big bold {noun} for the front page of a magazine",
    "{article} drawn with chalk on paper",
    "close shot of {article}, foggy morning, dramatic",
]
# Groups that show things; what people and smileys are tagged with is seldom a noun.
FREE_GROUPS = (pictures.ANIMALS, pictures.FOOD, pictures.PLACES, pictures.ACTIVITIES, pictures.OBJECTS)
FIRST_SEED = 10_000_000
SHEET_PROMPTS = 64


def evaluate(pipeline: StableDiffusionPipeline, emojis: Emojis, prompts: int = PROMPTS) -> dict[str, Any]:
    """Every figure, and under `wrong` each failed prompt with what was drawn instead."""
    chosen = random.Random(FIRST_SEED).sample(range(len(emojis)), min(prompts, len(emojis)))
    return {
        "psnr_db": round(autoencoder.psnr(pipeline.vae, pictures.on_colour(emojis.pictures, "white")), 2),
        **_measure_names(pipeline, emojis, chosen),
        **_measure_free(pipeline, emojis, prompts),
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


def free_prompts(emojis: Emojis, count: int) -> list[tuple[str, str]]:
    """Noun and prompt, by lot: half of the nouns are names, half are tags, none comes twice."""
    choice = random.Random(FIRST_SEED + 2)
    things = [number for number, group in enumerate(emojis.groups.tolist()) if group in FREE_GROUPS]
    names = {emojis.names[number]: None for number in things}  # dictionaries keep their order
    tags = {tag: None for number in things for tag in captions.nouns(emojis.tags[number])}
    nouns = [
        noun
        for source, share in ((names, count - count // 2), (tags, count // 2))
        for noun in _sample([noun for noun in source if noun.replace(" ", "").isalpha()], share, choice)
    ]
    return [(noun, _dress_freely(noun, choice.choice(FREE_TEMPLATES))) for noun in dict.fromkeys(nouns)]


def _sample(of: list[str], count: int, choice: random.Random) -> list[str]:
    return choice.sample(of, min(count, len(of)))


def _dress_freely(noun: str, template: str) -> str:
    return template.format(noun=noun, plural=captions.plural(noun), article=captions.article(noun))


def has_noun(emojis: Emojis, number: int, noun: str) -> bool:
    """Whether the emoji has it, all its words, in its name or among its tags."""
    words = set(emojis.names[number].lower().split())
    return noun in emojis.tags[number] or set(noun.lower().split()) <= words


def _measure_free(pipeline: StableDiffusionPipeline, emojis: Emojis, count: int) -> dict[str, Any]:
    asked = free_prompts(emojis, count)
    if not asked:
        return {}
    seeds = range(FIRST_SEED + 3000, FIRST_SEED + 3000 + len(asked))
    drawn = drawing.draw(pipeline, [prompt for _, prompt in asked], seeds)
    order = nearest(pipeline.vae, drawn, _known(pipeline, emojis))[:, :5].tolist()
    right = [
        any(has_noun(emojis, number, noun) for number in found)
        for (noun, _), found in zip(asked, order, strict=True)
    ]
    return {
        "free_prompts": len(asked),
        "free_top5": round(sum(right) / len(asked), 4),
        "free_wrong": {
            prompt: emojis.names[found[0]]
            for (_, prompt), found, good in zip(asked, order, right, strict=True)
            if not good
        },
    }


def _known(pipeline: StableDiffusionPipeline, emojis: Emojis) -> torch.Tensor:
    return autoencoder.encode(pipeline.vae, pictures.on_colour(emojis.pictures, "white"))


def picture_psnr(drawn: np.ndarray, wanted: np.ndarray) -> float:
    """Mean over pictures `[n, h, w, 3]`, uint8, of the peak signal-to-noise ratio, in dB."""
    errors = np.square(drawn.astype(np.float64) - wanted).mean((1, 2, 3))
    return float(np.mean(10 * np.log10(255**2 / np.maximum(errors, 1e-9))))


def _measure_names(pipeline: StableDiffusionPipeline, emojis: Emojis, chosen: list[int]) -> dict[str, Any]:
    names = [emojis.names[number] for number in chosen]
    drawn = drawing.draw(pipeline, names, range(FIRST_SEED, FIRST_SEED + len(names)))
    known = _known(pipeline, emojis)
    order = nearest(pipeline.vae, drawn, known)
    place = (order == torch.tensor(chosen)[:, None]).float().argmax(dim=1)
    return {
        "prompts": len(names),
        "top1": round(float((place == 0).float().mean()), 4),
        "top5": round(float((place < 5).float().mean()), 4),
        "drawn_psnr_db": round(
            picture_psnr(drawn, pictures.on_colour(emojis.pictures[chosen], captions.WHITE)), 2
        ),
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
