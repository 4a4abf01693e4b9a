"""What benches of the engine begin with: the model where it runs best here, and a drawing of its own size."""

from pathlib import Path
from typing import Any

import torch

from sdworker.engine.drawing import Drawing
from sdworker.engine.networks.families import load_model
from sdworker.engine.networks.model import Loading, Model

__all__ = ["drawing_for", "load_here", "loading_here"]


def loading_here() -> Loading:
    """On the GPU in float16 where there is one, else on the CPU in float32."""
    if torch.cuda.is_available():
        return Loading(torch.device("cuda"), torch.float16)
    return Loading(torch.device("cpu"), torch.float32)


def load_here(folder: Path) -> Model:
    """The model in a folder in diffusers' layout, loaded so."""
    return load_model(folder, loading_here())


def drawing_for(model: Model, **changes: Any) -> Drawing:
    """One of the model's own size, with guidance; `changes` say how many steps, and what else differs."""
    width, height = model.default_size
    usual: dict[str, Any] = {
        "prompt": "a red apple",
        "negative_prompt": "",
        "width": width,
        "height": height,
        "guidance": 5.0,
        "sampler": "DPM++ 2M Karras",
        "seeds": (7,),
    }
    return Drawing(**usual | changes)
