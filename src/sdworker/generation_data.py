"""What an image says of itself: the text that travels in its file, as AUTOMATIC1111's web UI writes it.

Tools that read PNG info (and people who want the same picture again) find prompt, settings and seed there.
"""

from sdworker import __version__
from sdworker.request import Request

__all__ = ["parameters_text"]


def parameters_text(request: Request, *, seed: int, size: tuple[int, int], model: str) -> str:
    """The `parameters` text of one image.

    Args:
        seed: the image's own.
        size: its width and height in pixels.
        model: what the model calls itself.
    """
    facts: dict[str, object] = {
        "Steps": request.num_inference_steps,
        "Sampler": request.scheduler,
        "CFG scale": request.guidance_scale,
        "Seed": seed,
        "Size": f"{size[0]}x{size[1]}",
        "Model": model,
    }
    if request.init_image is not None:
        facts["Denoising strength"] = request.prompt_strength
    facts["Version"] = f"sdworker {__version__}"
    lines = [request.prompt]
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    lines.append(", ".join(f"{name}: {value}" for name, value in facts.items()))
    return "\n".join(lines)
