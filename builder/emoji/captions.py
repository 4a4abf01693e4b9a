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

# What a thing may be doing, and where: the picture stays the same, the words must not lead it astray.
SCENES = [
    "flying through the sky", "flying in outer space", "floating among clouds", "running down the street",
    "sitting on a chair", "standing on a hill", "lying on the floor", "jumping up and down",
    "sleeping under a tree", "dancing at a party", "swimming in a lake", "walking through snow",
    "waiting for a bus", "looking at you", "smiling at the camera", "on a plate", "on a shelf",
    "on a table", "in a garden", "in a room", "in the rain", "in the desert", "at sunset", "at the market",
    "under the stars", "under water", "near a river", "with a friend", "made of wood", "made of stone",
    "made of gold", "covered in snow", "from the side", "seen from above", "for a child", "for sale",
    "and nothing else", "from a story", "from my holiday", "please",
]

SEVERAL = ["three", "four", "some", "many", "a few", "a pair of", "a pile of", "lots of", "both"]
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


def plural(words: str) -> str:
    """`words` with the last of them in the plural, by the rules that most words follow."""
    if words.endswith("y") and words[-2:-1] not in set("aeiou"):
        return words[:-1] + "ies"
    return words + ("es" if words.endswith(("s", "x", "z", "ch", "sh")) else "s")


def nouns(tags: Sequence[str]) -> list[str]:
    """The tags that can be asked for by themselves: words, not smileys, numbers or single letters."""
    return [tag for tag in tags if len(tag) > 2 and tag[0].isalpha()]


def _dress(name: str, tags: Sequence[str], choice: random.Random) -> str:
    way = choice.random()
    if way < 0.42:
        return name
    if way < 0.47:
        return article(name)
    if way < 0.60:
        return _dress_lightly(name, choice)
    if way < 0.70:  # a whole sentence of the kind people write
        words = " ".join([*choice.sample(PRAISE, choice.randint(1, 3)), name])
        start = choice.choice([article(words), words, f"{article(choice.choice(KINDS))} of {article(words)}"])
        return ", ".join([f"{start} {choice.choice(STYLES)}", *choice.sample(STYLES, choice.randint(0, 2))])
    if way < 0.78:
        words = choice.choice([name, article(name), article(f"{choice.choice(PRAISE)} {name}")])
        return f"{words} {choice.choice(SCENES)}"
    if way < 0.81:
        return f"{choice.choice(SEVERAL)} {plural(name)}"
    if way < 0.90 and nouns(tags):  # by another of its names, or by what it is among other things
        noun = choice.choice(nouns(tags))
        return choice.choice([noun, article(noun), _dress_lightly(noun, choice)])
    if way < 0.97 and tags:
        extra = choice.sample(list(tags), min(len(tags), choice.randint(1, 3)))
        parts = [name, *extra] if choice.random() < 0.7 else [*extra, name]
        return choice.choice([", ", " "]).join(parts)
    words_of_name = name.replace(":", "").replace(",", "").split()
    choice.shuffle(words_of_name)
    return " ".join(words_of_name)


def _dress_lightly(name: str, choice: random.Random) -> str:
    return choice.choice(
        [
            article(f"{choice.choice(PRAISE)} {name}"),
            article(f"{choice.choice(KINDS)} of {choice.choice([name, article(name)])}"),
            f"{choice.choice([name, article(name)])}, {choice.choice(STYLES)}",
        ]
    )
