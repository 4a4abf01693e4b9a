"""What an image says of itself: the text that travels in its file, as AUTOMATIC1111's web UI writes it.

Tools that read PNG info (and people who want the same picture again) find prompt, settings and seed there. Its
reader is `parse_generation_parameters` in the web UI's modules/infotext_utils.py. A line of a prompt that begins
with "Negative prompt:" is where that reader's negative prompt begins; the format knows no way around it.
"""

import json

from sdworker import __version__
from sdworker.request import Request, tag_of
from sdworker.request.controls import Control
from sdworker.samplers import PAIRS, SCHEDULES

__all__ = ["parameters_text"]


def parameters_text(request: Request, *, seed: int, size: tuple[int, int], model: str) -> str:
    """The `parameters` text of one image.

    Args:
        seed: the image's own.
        size: its width and height in pixels.
        model: what the model calls itself.
    """
    sampler = PAIRS[request.scheduler]
    schedule = {"Schedule type": SCHEDULES[sampler.schedule].label} if sampler.schedule else {}
    facts: dict[str, object] = {
        "Steps": request.num_inference_steps,
        "Sampler": sampler.method,
        **schedule,
        "CFG scale": request.guidance_scale,
        "Seed": seed,
        "Size": f"{size[0]}x{size[1]}",
        "Model": model,
    }
    if request.clip_skip:
        facts["Clip skip"] = request.clip_skip + 1
    if request.prompt_syntax == "plain":
        facts["Emphasis"] = "None"  # the web UI's way not to read brackets
    elif request.emphasis == "no_norm":
        facts["Emphasis"] = "No norm"
    if request.init_image is not None:
        facts["Denoising strength"] = request.prompt_strength
    if request.high_noise_frac is not None:
        facts["Refiner switch at"] = request.high_noise_frac
    if request.hires is not None:
        hires = request.hires
        facts["Denoising strength"] = hires.strength
        facts["Hires upscale"] = hires.scale if not (hires.width or hires.height) else None
        facts["Hires resize"] = f"{hires.width or 0}x{hires.height or 0}"
        facts["Hires steps"] = hires.steps or request.num_inference_steps
        facts["Hires upscaler"] = _UPSCALERS.get(hires.upscaler.casefold(), hires.upscaler)
        del facts["Hires resize" if facts["Hires upscale"] else "Hires upscale"]
    if request.upscale is not None:
        facts["Postprocess upscale by"] = request.upscale.scale
        facts["Postprocess upscaler"] = request.upscale.model
    for number, control in enumerate(request.controls):
        facts[f"ControlNet {number}"] = _unit(control)
    facts["Version"] = f"sdworker {__version__}"
    lines = [" ".join(filter(None, [request.prompt, *(tag_of(lora) for lora in request.loras)]))]
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    lines.append(", ".join(f"{name}: {_quoted(str(value))}" for name, value in facts.items()))
    # A NUL ends the text for every reader written in C, and what follows would be lost.
    return "\n".join(lines).replace("\0", "")


_UPSCALERS = {"latent": "Latent", "lanczos": "Lanczos", "nearest": "Nearest"}


def _unit(control: Control) -> str:
    """A ControlNet as the web UI's extension writes it."""
    resize = {"stretch": "Just Resize", "crop": "Crop and Resize", "fit": "Resize and Fill"}
    facts = {
        "Module": control.preprocessor,
        "Model": control.model,
        "Weight": control.scale,
        "Resize Mode": resize[control.resize],
        "Threshold A": control.thresholds[0],
        "Threshold B": control.thresholds[1],
        "Guidance Start": control.start,
        "Guidance End": control.end,
        "Control Mode": "ControlNet is more important" if control.guess_mode else "Balanced",
    }
    return ", ".join(f"{name}: {value}" for name, value in facts.items())


def _quoted(value: str) -> str:
    """A value as the web UI's `quote` writes it: in quotes where the reader would end it too early."""
    return json.dumps(value, ensure_ascii=False) if set(value) & set(',:\n"') else value
