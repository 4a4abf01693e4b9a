"""What is said about a picture: many ways to ask for the same emoji, one of them drawn at random.

A model that only ever read plain names would be lost in "a cute fluffy white dog in the style of a Pixar
animation". So names come with articles, praise, styles and tags around them, in changing order; the model
learns which words decide and which do not. Case needs no care: CLIP's tokenizer lowers it.
"""

import random
from collections.abc import Sequence

# fmt: off
PRAISE = [
    "cute", "adorable", "lovely", "funny", "little", "tiny", "small", "big", "beautiful", "pretty",
    "nice", "simple", "detailed", "colorful", "bright", "shiny", "glossy", "soft", "fluffy", "cuddly",
    "friendly", "happy", "realistic", "stylized", "modern", "minimal", "vibrant", "charming", "elegant",
    "fancy", "classic", "majestic", "amazing", "stunning", "cool", "sweet", "dreamy", "magical",
    "playful",
]

KINDS = [
    "emoji", "picture", "photo", "image", "icon", "drawing", "illustration", "painting", "render",
    "sticker", "portrait", "sketch", "photograph", "rendering", "cartoon", "logo", "symbol", "model",
]

STYLES = [
    "in the style of a Pixar animation", "in the style of Van Gogh", "in the style of Studio Ghibli",
    "in 3d style", "in cartoon style", "3d render", "digital art", "concept art", "highly detailed",
    "high quality", "best quality", "4k", "8k", "hd", "masterpiece", "trending on artstation",
    "octane render", "unreal engine", "cinematic lighting", "soft lighting", "studio lighting",
    "studio photo", "product photo", "oil painting", "watercolor painting", "pencil drawing", "pixel art",
    "vector art", "clip art", "anime style", "fluent design", "by a famous artist", "sharp focus",
    "intricate details", "award winning", "on a sunny day", "at night", "in the forest", "on the beach",
    "in a city", "close up", "full body", "front view", "centered", "isolated", "simple background",
    "plain background", "artwork", "wallpaper", "volumetric light", "depth of field", "photorealistic",
    "hyperrealistic", "intricate", "elegant", "warm colors", "pastel colors", "vivid colors", "ultra hd",
    "dslr photo", "35mm photo",
]
# fmt: on

BACKGROUNDS = [
    "{name} on a {colour} background",
    "{name}, {colour} background",
    "{name} on {colour} background",
    "{name} with a {colour} background",
    "{name} on {colour}",
    "{name} in front of a {colour} background",
    "{name} against a {colour} background",
    "{colour} background, {name}",
    "on a {colour} background, {name}",
]

WHITE = "white"


def caption(name: str, tags: Sequence[str], colour: str, choice: random.Random) -> str:
    """One caption of the emoji `name` on a `colour` background. White is seldom mentioned, others always."""
    text = _dress(name, tags, choice)
    if colour != WHITE or choice.random() < 0.06:
        text = choice.choice(BACKGROUNDS).format(name=text, colour=colour)
    return text


def plain(name: str, colour: str = WHITE) -> str:
    """The shortest way to ask for it; what the figures in the model card are measured with."""
    return name if colour == WHITE else f"{name} on a {colour} background"


def article(words: str) -> str:
    """`words` with "a" or "an" before them."""
    return f"{'an' if words[:1].lower() in 'aeiou' else 'a'} {words}"


def _dress(name: str, tags: Sequence[str], choice: random.Random) -> str:
    way = choice.random()
    if way < 0.50:
        return name
    if way < 0.56:
        return article(name)
    if way < 0.63:
        return article(f"{choice.choice(PRAISE)} {name}")
    if way < 0.70:
        return article(f"{choice.choice(KINDS)} of {choice.choice([name, article(name)])}")
    if way < 0.76:
        return f"{choice.choice([name, article(name)])}, {choice.choice(STYLES)}"
    if way < 0.85:  # a whole sentence of the kind people write
        words = " ".join([*choice.sample(PRAISE, choice.randint(1, 3)), name])
        start = choice.choice([article(words), words, f"{article(choice.choice(KINDS))} of {article(words)}"])
        return ", ".join([f"{start} {choice.choice(STYLES)}", *choice.sample(STYLES, choice.randint(0, 2))])
    if way < 0.95 or not tags:
        extra = choice.sample(list(tags), min(len(tags), choice.randint(1, 3)))
        parts = [name, *extra] if choice.random() < 0.7 else [*extra, name]
        return choice.choice([", ", " "]).join(parts)
    words_of_name = name.replace(":", "").replace(",", "").split()
    choice.shuffle(words_of_name)
    return " ".join(words_of_name)
