"""First training: the autoencoder, on the pictures over plain backgrounds.

Afterwards each latent channel is brought to mean 0 and the deviation that Stable Diffusion's scaling factor
expects, by folding a shift and a scale into `quant_conv` and `post_quant_conv`: one channel much quieter
than the others would otherwise be drowned in the diffusion's noise, and colours with it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL

from builder.emoji import pictures
from builder.emoji.architecture import SCALING_FACTOR
from builder.emoji.optimizer import MuonAdamW
from builder.emoji.pictures import Emojis
from builder.emoji.precision import amp
from builder.emoji.trainer import Trainer


@dataclass(frozen=True)
class AutoencoderPlan:
    """What can be set. Crops make the early steps cheap; the last part sees whole pictures, as in use."""

    batch: int = 8
    rate: float = 1.5e-3
    crop: int = 64
    crop_share: float = 0.4
    kl: float = 2e-3
    seed: int = 0


def train(
    autoencoder: AutoencoderKL,
    emojis: Emojis,
    trainer: Trainer,
    plan: AutoencoderPlan,
    *,
    decoder_only: bool = False,
) -> bool:
    """Train in place until the budget is spent; leaves the averaged weights, not yet folded.

    With `decoder_only` latents stay what they are, so a UNet that knows them can be kept.
    Returns whether the whole budget was spent.
    """
    for part in (autoencoder.encoder, autoencoder.quant_conv):
        part.requires_grad_(not decoder_only)
    optimizer = MuonAdamW([autoencoder], plan.rate)
    stock = torch.from_numpy(emojis.pictures).to(trainer.device)
    samples = emojis.pictures[:: max(1, len(emojis) // 32)][:32]

    def loss_of_step(step: int) -> torch.Tensor:
        target = _draw_batch(stock, plan, step, trainer.budget.progress)
        noise = torch.Generator(trainer.device).manual_seed(plan.seed * 1_000_003 + step)
        with amp(trainer.device):
            posterior = autoencoder.encode(target).latent_dist
            drawn = autoencoder.decode(posterior.sample(noise)).sample
        return _loss(drawn.float(), target, posterior.mean.float(), posterior.logvar.float(), plan.kl)

    def draw_samples() -> np.ndarray:
        seen = pictures.on_colour(samples, "white")
        return np.concatenate(
            [np.stack([a, b]) for a, b in zip(seen, reconstruct(autoencoder, seen), strict=True)]
        )

    return trainer.run([autoencoder], optimizer, plan.rate, loss_of_step, draw_samples)


def to_tensor(rgb: np.ndarray) -> torch.Tensor:
    """uint8 `[n, h, w, 3]` to `[n, 3, h, w]` in -1 to 1."""
    return torch.from_numpy(rgb).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def to_pixels(images: torch.Tensor) -> np.ndarray:
    """`[n, 3, h, w]` in -1 to 1 to uint8 `[n, h, w, 3]`."""
    pixels: np.ndarray = (
        images.add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    )
    return pixels


@torch.no_grad()
def encode(autoencoder: AutoencoderKL, rgb: np.ndarray, batch: int = 32) -> torch.Tensor:
    """Mean latents `[n, 4, 16, 16]` of uint8 pictures, unscaled, on the CPU."""
    device = autoencoder.device
    parts = [
        autoencoder.encode(to_tensor(rgb[i : i + batch]).to(device)).latent_dist.mean.float().cpu()
        for i in range(0, len(rgb), batch)
    ]
    return torch.cat(parts)


@torch.no_grad()
def decode(autoencoder: AutoencoderKL, latents: torch.Tensor, batch: int = 32) -> np.ndarray:
    """Pictures of unscaled latents."""
    device = autoencoder.device
    parts = [to_pixels(autoencoder.decode(part.to(device)).sample.float()) for part in latents.split(batch)]
    return np.concatenate(parts)


def reconstruct(autoencoder: AutoencoderKL, rgb: np.ndarray) -> np.ndarray:
    """Pictures through the autoencoder and back."""
    return decode(autoencoder, encode(autoencoder, rgb))


def psnr(autoencoder: AutoencoderKL, rgb: np.ndarray) -> float:
    """Mean over pictures of the peak signal-to-noise ratio of their reconstruction, in dB."""
    errors = (reconstruct(autoencoder, rgb).astype(np.float64) - rgb) ** 2
    return float(np.mean(10 * np.log10(255**2 / np.maximum(errors.mean((1, 2, 3)), 1e-9))))


@torch.no_grad()
def fold_normalisation(autoencoder: AutoencoderKL, rgb: np.ndarray) -> None:
    """Make the latents of `rgb`, times the scaling factor, mean 0 and deviation 1 in each channel."""
    latents = encode(autoencoder, rgb)
    shift = latents.mean((0, 2, 3)).to(autoencoder.device)
    scale = 1 / (latents.std((0, 2, 3)).to(autoencoder.device) * SCALING_FACTOR)

    before, after = autoencoder.quant_conv, autoencoder.post_quant_conv
    channels = len(shift)
    after.bias += after.weight[:, :, 0, 0] @ shift
    after.weight /= scale[None, :, None, None]
    before.bias[:channels] = (before.bias[:channels] - shift) * scale
    before.weight[:channels] *= scale[:, None, None, None]
    before.bias[channels:] += 2 * scale.log()  # the other half is the logarithm of the variance


def _draw_batch(stock: torch.Tensor, plan: AutoencoderPlan, step: int, progress: float) -> torch.Tensor:
    """Pictures over random backgrounds, -1 to 1; for a start smaller crops, but twice as many."""
    choice = np.random.default_rng((plan.seed, step))
    cropped = progress < plan.crop_share
    count = plan.batch * (2 if cropped else 1)
    chosen = stock[torch.from_numpy(choice.integers(len(stock), size=count)).to(stock.device)]
    if cropped:
        corners = choice.integers(pictures.SIZE - plan.crop + 1, size=(count, 2)).tolist()
        chosen = torch.stack(
            [
                picture[y : y + plan.crop, x : x + plan.crop]
                for picture, (y, x) in zip(chosen, corners, strict=True)
            ]
        )
    named = np.array(list(pictures.COLOURS.values()), np.float32)
    colours = named[choice.integers(len(named), size=count)]
    colours[choice.random(count) < 0.5] = 255
    under = torch.from_numpy(colours).to(stock.device)[:, None, None, :]
    mixed = under.lerp(chosen[..., :3].float(), chosen[..., 3:].float() / 255)
    return mixed.permute(0, 3, 1, 2).div(127.5).sub(1)


def _loss(
    drawn: torch.Tensor, target: torch.Tensor, mean: torch.Tensor, logvar: torch.Tensor, kl_weight: float
) -> torch.Tensor:
    """Squared error for PSNR, absolute error and neighbours' differences for edges, KL for quiet latents."""
    error = drawn - target
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return 4 * error.square().mean() + error.abs().mean() + edges + kl_weight * kl
