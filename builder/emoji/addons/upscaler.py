"""Upscaler: twice as large, 128 px to 256 px. SRVGGNetCompact, as Real-ESRGAN's compact models are.

Learns from the emoji at the 256 px in which they are published, of which every tenth is kept for measuring. The
file has the keys that `spandrel` knows the architecture by.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from builder.emoji import autoencoder, evaluate, pictures
from builder.emoji.addons import command
from builder.emoji.optimizer import MuonAdamW
from builder.emoji.precision import amp
from builder.emoji.trainer import Trainer

OUT = Path("models/upscalers/emoji-x2.safetensors")
SCALE = 2
FEATURES = 32
LAYERS = 10
CROP = 40
"""Side of a training picture before it is enlarged, in pixels."""
BATCH = 16
HELD_OUT = 10
"""Every so manyth picture is for measuring only."""


class Compact(nn.Module):
    """SRVGGNetCompact: 3x3 convolutions at the small size, then a pixel shuffle onto the nearest pixels.

    `[n, 3, h, w]` to `[n, 3, 2h, 2w]`, both 0 to 1 (Real-ESRGAN, Wang et al. 2021, `SRVGGNetCompact`).
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, FEATURES, 3, padding=1), nn.PReLU(FEATURES)]
        for _ in range(LAYERS):
            layers += [nn.Conv2d(FEATURES, FEATURES, 3, padding=1), nn.PReLU(FEATURES)]
        last = nn.Conv2d(FEATURES, 3 * SCALE * SCALE, 3, padding=1)
        for start in last.parameters():  # so that it begins with the nearest pixels
            nn.init.zeros_(start)
        self.body = nn.ModuleList([*layers, last])

    def forward(self, small: torch.Tensor) -> torch.Tensor:
        features = small
        for layer in self.body:
            features = layer(features)
        return functional.pixel_shuffle(features, SCALE) + functional.interpolate(small, scale_factor=SCALE)


def train(network: Compact, large: np.ndarray, trainer: Trainer) -> bool:
    """Teach it the uint8 RGBA pictures `[n, 256, 256, 4]`, over plain colours. Returns whether it is done."""
    colours = list(pictures.COLOURS)

    def loss_of_step(step: int) -> torch.Tensor:
        choice = np.random.default_rng((0, step))
        chosen = choice.integers(len(large), size=BATCH)
        under = str(choice.choice(colours, p=[0.55, *[0.05] * 9]))
        wanted = pictures.on_colour(large[chosen], under)
        given = shrink(wanted)
        corners = choice.integers(given.shape[1] - CROP + 1, size=(BATCH, 2))
        pairs = [
            (
                small[y : y + CROP, x : x + CROP],
                big[y * SCALE : (y + CROP) * SCALE, x * SCALE : (x + CROP) * SCALE],
            )
            for small, big, (y, x) in zip(given, wanted, corners.tolist(), strict=True)
        ]
        small, big = (_to_unit(np.stack(side)) for side in zip(*pairs, strict=True))
        if choice.random() < 0.5:
            small, big = small.flip(3), big.flip(3)
        with amp(trainer.device):
            drawn = network(small)
        return functional.l1_loss(drawn.float(), big) + functional.mse_loss(drawn.float(), big)

    return trainer.run([network], MuonAdamW([network], 2e-3), 2e-3, loss_of_step)


def shrink(rgb: np.ndarray) -> np.ndarray:
    """uint8 `[n, 2h, 2w, 3]` to `[n, h, w, 3]`, as the model's own training pictures were shrunk."""
    side = rgb.shape[1] // SCALE
    return np.stack(
        [np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.LANCZOS)) for one in rgb]
    )


def bicubic(rgb: np.ndarray) -> np.ndarray:
    """uint8 `[n, h, w, 3]` to `[n, 2h, 2w, 3]`: what there is without a network."""
    side = rgb.shape[1] * SCALE
    return np.stack(
        [np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC)) for one in rgb]
    )


@torch.no_grad()
def enlarge(network: nn.Module, rgb: np.ndarray) -> np.ndarray:
    """uint8 `[n, h, w, 3]` to `[n, 2h, 2w, 3]`."""
    parts = [network(_to_unit(rgb[i : i + 16])) for i in range(0, len(rgb), 16)]
    return autoencoder.to_pixels(torch.cat(parts) * 2 - 1)


def save(path: Path, network: Compact) -> None:
    """fp16 safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.half().contiguous() for name, weight in network.state_dict().items()}, path)
    path.chmod(0o644)


def load(path: Path) -> Compact:
    """What `save` wrote, in fp32."""
    network = Compact()
    network.load_state_dict({name: weight.float() for name, weight in load_file(path).items()})
    return network.eval()


def measure(network: nn.Module, large: np.ndarray) -> dict[str, float]:
    """PSNR in dB at 256 px, on white, of what is enlarged from 128 px."""
    wanted = pictures.on_colour(large, "white")
    small = shrink(wanted)
    plain = evaluate.picture_psnr(bicubic(small), wanted)
    drawn = evaluate.picture_psnr(enlarge(network, small), wanted)
    return {
        "pictures": len(large),
        "bicubic_psnr_db": round(plain, 2),
        "psnr_db": round(drawn, 2),
        "better_by_db": round(drawn - plain, 2),
    }


def _to_unit(rgb: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rgb).permute(0, 3, 1, 2).float().div(255)


def main() -> None:
    given = command.parse(__doc__, "upscaler", OUT, minutes=12)
    large = pictures.read_large(given.work / "npm", given.emojis)
    held_out = np.arange(len(large)) % HELD_OUT == 0
    if not given.measure_only:
        torch.manual_seed(0)
        network = Compact()
        train(network, large[~held_out], given.trainer)
        save(given.out, network)
    figures = measure(load(given.out), large[held_out][: given.count])
    command.write_figures(given.out.parent / "figures.json", given.out.stem, figures)


if __name__ == "__main__":
    main()
