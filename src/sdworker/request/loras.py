"""The LoRAs a job asks for, however it says so: as a list, as worker-stable_diffusion_v1 did, in its prompt.

AUTOMATIC1111's web UI writes them into the prompt: `<lora:name:0.8>` for both networks, `<lora:name:0.5:0.8>` for
text encoder and UNet, or by name, `<lora:name:te=0.5:unet=0.8>`. LyCORIS's `<lyco:…>` is the same. Such tags stand
for no text, wherever they are, and all of them add up.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from sdworker.request.declaration import LARGEST_SCALE, Lora, Request
from sdworker.wording import show

__all__ = ["Asked", "asked_loras", "short_name", "tag_of"]

_TAG = re.compile(r"<(lora|lyco|hypernet):([^<>]*)>", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)")
_NAMED = re.compile(r"(te|unet|dyn)\s*=\s*(.*)", re.IGNORECASE)


class Asked(NamedTuple):
    """What a job asks for.

    Attributes:
        prompt: without tags.
        loras: each file once, its scales added up.
        problems: tags that cannot be read.
    """

    prompt: str
    loras: tuple[Lora, ...]
    problems: tuple[str, ...]


def asked_loras(request: Request) -> Asked:
    """The prompt and the LoRAs that a request means."""
    asked = list(request.loras)
    if request.lora:
        asked.append(Lora(name=request.lora, scale=request.lora_scale))
    if request.prompt_syntax == "plain":
        return Asked(request.prompt, _added_up(asked), ())
    problems: list[str] = []
    for kind, content in _TAG.findall(request.prompt):
        found = "hypernetworks are not served" if kind.lower() == "hypernet" else _read(content)
        if isinstance(found, Lora):
            asked.append(found)
        else:
            problems.append(f"prompt: <{kind.lower()}:...>: {found}")
    prompt, tags = _TAG.subn("", request.prompt)
    return Asked(prompt.strip() if tags else prompt, _added_up(asked), tuple(problems))


def tag_of(lora: Lora) -> str:
    """A LoRA as the web UI writes it; of a remote one no more than its file's name, lest a token be in it."""
    unet, text = f"{lora.scale:g}", f"{lora.strength_of_text:g}"
    return f"<lora:{short_name(lora.name)}:{unet if unet == text else f'{text}:{unet}'}>"


def _read(content: str) -> Lora | str:
    """A tag's content, or what is wrong with it."""
    parts = content.split(":")
    least = 2 if parts[0].strip().lower() == "civitai" else 1  # civitai:123 is a name
    places: list[float] = []
    named: dict[str, float] = {}
    while len(parts) > least:
        last = parts[-1].strip()
        match = _NAMED.fullmatch(last)
        number = match[2].strip() if match else last
        if not _NUMBER.fullmatch(number):
            if match:
                return f"{show(number)} is no number"
            break
        if match:
            named.setdefault(match[1].lower(), float(number))
        else:
            places.insert(0, float(number))
        parts.pop()
    if "dyn" in named or len(places) > 2:
        return "more than a name, a scale for the text encoder and one for the UNet is not read"
    name = ":".join(parts).strip()
    if not name:
        return "it names no LoRA"
    return _lora(name, places, named)


def _lora(name: str, places: list[float], named: Mapping[str, float]) -> Lora | str:
    """The text encoder's scale comes first, and is 1 where nothing says it; the UNet's is the same where nothing
    else is said. A scale that is named counts more."""
    text = named.get("te", places[0] if places else 1.0)
    scale = named.get("unet", places[1] if len(places) > 1 else text)
    for given in (scale, text):
        if abs(given) > LARGEST_SCALE:
            return (
                f"{given:g} is out of range; allowed: a number from -{LARGEST_SCALE:g} to {LARGEST_SCALE:g}"
            )
    return Lora(name=name, scale=scale, text_scale=text)


def _added_up(loras: list[Lora]) -> tuple[Lora, ...]:
    found: dict[tuple[str, str | None], Lora] = {}
    for lora in loras:
        key = lora.name, lora.sha256
        before = found.get(key)
        if before is not None:
            lora = lora.model_copy(
                update={
                    "scale": before.scale + lora.scale,
                    "text_scale": before.strength_of_text + lora.strength_of_text,
                }
            )
        found[key] = lora
    return tuple(found.values())


def short_name(name: str) -> str:
    """What a LoRA is called where its source must not be: the name of its file."""
    if "://" in name:
        name = urlsplit(name).path
    file = name.rpartition("/")[2].rpartition(":")[2].partition("@")[0]
    return file.removesuffix(".safetensors")
