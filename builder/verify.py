"""Whether a model folder can be loaded, whole, by the libraries that the worker loads it with."""

import json
from pathlib import Path
from typing import Any

from builder.errors import FetchError
from builder.layout import INDEX, layout_in

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
    layout = layout_in(index)
    libraries = {"transformers": transformers, "diffusers": diffusers}
    configs = {}
    for name in layout.weights:
        library, kind = index[name]
        options = {"dtype" if library == "transformers" else "torch_dtype": torch.float16}
        configs[name] = _load_network(folder, name, getattr(libraries[library], kind), options).config
    tokens = {
        encoder: len(
            _load(
                words,
                lambda words=words: transformers.CLIPTokenizer.from_pretrained(
                    folder / words, local_files_only=True
                ),
            )
        )
        for encoder, words in layout.text_encoders.items()
    }
    scheduler_class = getattr(diffusers, index["scheduler"][1], None)
    if scheduler_class is None:
        raise FetchError(
            f"its scheduler, {index['scheduler'][1]}, is unknown to diffusers {diffusers.__version__}"
        )
    _load("scheduler", lambda: scheduler_class.from_pretrained(folder / "scheduler", local_files_only=True))

    _check_fit(configs, tokens)


def _check_fit(configs: dict[str, Any], tokens: dict[str, int]) -> None:
    """`tokens` is of each text encoder how many its tokenizer knows."""
    unet, vae = configs["unet"], configs["vae"]
    width = sum(configs[name].hidden_size for name in tokens)
    if width != unet.cross_attention_dim:
        raise FetchError(f"its text encoder's width is {width}, its UNet wants {unet.cross_attention_dim}")
    for name, known in tokens.items():
        if known > configs[name].vocab_size:
            raise FetchError(
                f"its tokenizer knows {known} tokens, its text encoder {configs[name].vocab_size}"
            )
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
