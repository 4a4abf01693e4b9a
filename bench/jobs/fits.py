"""Which sizes a card's memory holds, stage by stage, by arithmetic: no GPU is needed, and nothing is computed.

The networks of Stable Diffusion 1.5 and XL run on PyTorch's `meta` device in half precision, as the engine runs
them on CUDA: a UNet step of one image with guidance, whose attention holds nothing of all pairs (`flash` and
`efficient`, as PyTorch chooses them), and the VAE strip by strip. What is counted is the most that tensors hold at
a time. Kernels' own workspace and the CUDA context come on top; `python -m bench memory` on a card measures them.
"""

import weakref
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from bench.random_model import SD15, SDXL, Architecture
from bench.report import table, write_json
from sdworker.engine.networks import strips

__all__ = ["Held", "attention_in_pieces", "run"]

_MODELS = {"Stable Diffusion 1.5": SD15, "Stable Diffusion XL": SDXL}
_SIDES = (512, 1024, 1536, 2048)
_CARDS_GB = (12, 16, 24)
_DTYPE = torch.float16
_SCALE = 8  # pixels of a latent
_ROWS = 2
_UNCUT = "decode, uncut"  # for comparison: nobody does it
# Multiplications of a piece on CUDA (`engine/networks/autoencoder.py`).
_BUDGET = 2 * 10**11
# CUDA's context, libraries and their workspaces, about.
_BESIDE_BYTES = int(1.0 * 2**30)


def run(_model: Path, _rounds: int) -> None:
    """Count and report."""
    figures: dict[str, Any] = {}
    for name, architecture in _MODELS.items():
        weights = weights_bytes(architecture)
        stages = {side: count_stages(architecture, side) for side in _SIDES}
        figures[name] = {"weights_bytes": weights, "stages": stages}
        rows = []
        for side, held in stages.items():
            most = weights + max(held[stage] for stage in held if stage != _UNCUT) + _BESIDE_BYTES
            cards = [str(card) for card in _CARDS_GB if most <= card * 10**9]
            rows.append(
                (
                    f"{side}x{side}",
                    *(_gb(one) for one in held.values()),
                    _gb(most),
                    ", ".join(cards) or "none",
                )
            )
        table(
            f"memory by arithmetic: {name}, weights {_gb(weights)} GB in fp16, one image with guidance, GB",
            ("size", *next(iter(stages.values())), "in all, about", "fits into GB"),
            rows,
        )
    print(f"written to {write_json('fits', figures)}")


def _vae_dtype(architecture: Architecture) -> torch.dtype:
    """Stable Diffusion XL's own makes no numbers in half precision that could be shown."""
    return torch.float32 if architecture.vae.get("force_upcast") else _DTYPE


def weights_bytes(architecture: Architecture) -> int:
    """Of all networks, in half precision but for what it does not do for."""
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        texts = [one for one in (architecture.text_encoder, architecture.text_encoder_2) if one is not None]
        networks: list[torch.nn.Module] = [CLIPTextModel(CLIPTextConfig(**one)).to(_DTYPE) for one in texts]
        networks.append(UNet2DConditionModel(**architecture.unet).to(_DTYPE))
        networks.append(AutoencoderKL(**architecture.vae).to(_vae_dtype(architecture)))
    weights = [weight for network in networks for weight in network.parameters()]
    return sum(weight.numel() * weight.element_size() for weight in weights)


@torch.inference_mode()
def count_stages(architecture: Architecture, side: int) -> dict[str, int]:
    """Most bytes beside the weights in each stage of a picture of so many pixels a side."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**architecture.unet).to(_DTYPE).eval()
        vae = AutoencoderKL(**architecture.vae).to(_vae_dtype(architecture)).eval()
        latents = torch.empty(_ROWS, 4, side // _SCALE, side // _SCALE, dtype=_DTYPE)
        text = torch.empty(_ROWS, 77, unet.config.cross_attention_dim, dtype=_DTYPE)
        small = latents[:1].to(vae.dtype)
        pixels = torch.empty(1, 3, side, side, dtype=vae.dtype)
        added = {
            "text_embeds": torch.empty(_ROWS, (architecture.text_encoder_2 or {}).get("projection_dim", 0)),
            "time_ids": torch.empty(_ROWS, 6),
        }
        return {
            "UNet step": _most(
                lambda: unet(
                    latents,
                    torch.empty(_ROWS),
                    encoder_hidden_states=text,
                    added_cond_kwargs=added if architecture.text_encoder_2 else None,
                    return_dict=False,
                )
            ),
            "decode": _most(lambda: _all(strips.decode(vae, small, _BUDGET))),
            "encode": _most(lambda: _all(strips.encode(vae, pixels, _BUDGET))),
            _UNCUT: _most(lambda: vae.decode(small)),
        }


def _most(call: Callable[[], object]) -> int:
    with Held() as held, attention_in_pieces():
        call()
    return held.most_bytes


def _all(pieces: Generator[None, None, torch.Tensor]) -> None:
    for _ in pieces:
        pass


class Held(TorchDispatchMode):
    """Counts what tensors that are made while it is open hold at a time.

    Attributes:
        most_bytes: the most.
    """

    def __init__(self) -> None:
        super().__init__()
        self.most_bytes = 0
        self._bytes = 0
        self._tensors: dict[int, int] = {}  # of each storage, how many there are

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor)
        return out

    def _note(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._tensors:
            self._bytes += size
            self.most_bytes = max(self.most_bytes, self._bytes)
        self._tensors[key] = self._tensors.get(key, 0) + 1
        weakref.finalize(tensor, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._tensors[key] -= 1
        if not self._tensors[key]:
            del self._tensors[key]
            self._bytes -= size


class attention_in_pieces(TorchFunctionMode):  # noqa: N801 - used like a function
    """While it is open, attention holds what goes in and what comes out, and nothing of all pairs."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            return torch.empty_like(args[0] if args else (kwargs or {})["query"])
        return func(*args, **(kwargs or {}))


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f}"
