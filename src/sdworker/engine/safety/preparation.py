"""A picture as CLIP's image processor gives it to a network; transformers' `CLIPImageProcessor` on Pillow."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

__all__ = ["Preparation"]


@dataclass(frozen=True)
class Preparation:
    """What is done to a picture, in this order.

    Attributes:
        shortest: pixels of its shorter side after it was resized.
        crop: height and width of what is kept of its middle.
        resample: Pillow's number of the filter.
        factor: what its bytes are multiplied with.
        mean, deviation: of each colour, which are taken out.
    """

    shortest: int
    crop: tuple[int, int]
    resample: int
    factor: float
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def load(cls, file: Path) -> Self:
        """As `preprocessor_config.json` says.

        Raises:
            Exception: it cannot be read, or says something else than how to resize, crop and normalise.
        """
        said: dict[str, Any] = _DEFAULTS | json.loads(file.read_text("utf-8"))
        for step in ("do_resize", "do_center_crop", "do_rescale", "do_normalize"):
            if said[step] is not True:
                raise ValueError(f"{step} is not true")
        size, crop = said["size"], said["crop_size"]
        shortest = size["shortest_edge"] if isinstance(size, dict) else size
        both = (crop["height"], crop["width"]) if isinstance(crop, dict) else (crop, crop)
        if max(both) > shortest:
            raise ValueError("crop_size is more than size")
        return cls(
            shortest=int(shortest),
            crop=(int(both[0]), int(both[1])),
            resample=int(said["resample"]),
            factor=float(said["rescale_factor"]),
            mean=tuple(map(float, said["image_mean"])),
            deviation=tuple(map(float, said["image_std"])),
        )

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [h, w, 3] → float32 [1, 3, *crop]."""
        height, width = pixels.shape[:2]
        short, long = sorted((height, width))
        longest = int(self.shortest * long / short)
        size = (self.shortest, longest) if width <= height else (longest, self.shortest)
        resized = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling(self.resample)))
        top, left = ((side - kept) // 2 for side, kept in zip(resized.shape[:2], self.crop, strict=True))
        kept = resized[top : top + self.crop[0], left : left + self.crop[1]]
        scaled = (kept.astype(np.float64) * self.factor).astype(np.float32)
        normal = (scaled - np.array(self.mean, np.float32)) / np.array(self.deviation, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1)[None])


_DEFAULTS: dict[str, Any] = {
    "do_resize": True,
    "do_center_crop": True,
    "do_rescale": True,
    "do_normalize": True,
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "resample": 3,
    "rescale_factor": 1 / 255,
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}
