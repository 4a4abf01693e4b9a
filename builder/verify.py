"""Whether a model folder can be loaded, whole, by the libraries that the worker loads it with."""

import json
from pathlib import Path
from typing import Any

from builder.errors import FetchError
from builder.layout import INDEX

__all__ = ["verify"]


def verify(folder: Path) -> None:
    """Load every component and check that they fit each other.

    Raises:
        FetchError: naming the component, and what is wrong with it.
    """
    import diffusers
    import torch
    import transformers

    index = json.loads((folder / INDEX).read_text())
    networks = {
        "text_encoder": (transformers.CLIPTextModel, {"dtype": torch.float16}),
        "unet": (diffusers.UNet2DConditionModel, {"torch_dtype": torch.float16}),
        "vae": (diffusers.AutoencoderKL, {"torch_dtype": torch.float16}),
    }
    configs = {}
    for name, (cls, options) in networks.items():
        configs[name] = _load_network(folder, name, cls, options).config
    tokenizer = _load(
        "tokenizer",
        lambda: transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
    )
    scheduler_class = getattr(diffusers, index["scheduler"][1], None)
    if scheduler_class is None:
        raise FetchError(
            f"its scheduler, {index['scheduler'][1]}, is unknown to diffusers {diffusers.__version__}"
        )
    _load("scheduler", lambda: scheduler_class.from_pretrained(folder / "scheduler", local_files_only=True))

    _check_fit(configs, len(tokenizer))


def _check_fit(configs: dict[str, Any], tokens: int) -> None:
    text, unet, vae = configs["text_encoder"], configs["unet"], configs["vae"]
    if text.hidden_size != unet.cross_attention_dim:
        raise FetchError(
            f"its text encoder's width is {text.hidden_size}, its UNet wants {unet.cross_attention_dim}"
        )
    if tokens > text.vocab_size:
        raise FetchError(f"its tokenizer knows {tokens} tokens, its text encoder {text.vocab_size}")
    if vae.latent_channels != unet.out_channels:
        raise FetchError(f"its VAE has {vae.latent_channels} latent channels, its UNet {unet.out_channels}")


def _load_network(folder: Path, name: str, cls: Any, options: dict[str, Any]) -> Any:
    network, info = _load(
        name,
        lambda: cls.from_pretrained(
            folder,
            subfolder=name,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        ),
    )
    for problem in ("missing_keys", "mismatched_keys"):
        keys = sorted(str(key) for key in info.get(problem) or ())
        if keys:
            raise FetchError(f"its {name} has {len(keys)} {problem.replace('_', ' ')}, {keys[0]} first")
    return network


def _load(name: str, load: Any) -> Any:
    try:
        return load()
    except Exception as error:  # the libraries raise anything, down to KeyError; the cause is kept
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FetchError(f"its {name} cannot be loaded: {first_line}") from error
