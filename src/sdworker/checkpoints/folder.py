"""A checkpoint written as a folder in diffusers' layout, its weights in half precision.

One tensor at a time: the file is mapped into memory and what is written is copied from there, so that a worker may
do it beside its drawings.
"""

import json
import os
import re
import shutil
import struct
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdworker.checkpoints.errors import CheckpointError
from sdworker.checkpoints.names import given_weights, saved_name, wanted_shapes
from sdworker.checkpoints.recognise import SUPPORTED, Checkpoint
from sdworker.model_layout import INDEX, STABLE_DIFFUSION, STABLE_DIFFUSION_XL, Layout, layout_of

if TYPE_CHECKING:
    import torch

__all__ = ["OWN_CONFIGS", "own_configs", "read_json", "write_configs", "write_folder"]

_HERE = Path(__file__).parent
OWN_CONFIGS = _HERE / "configs"
_FAMILIES = {STABLE_DIFFUSION: "stable-diffusion-1.5", STABLE_DIFFUSION_XL: "stable-diffusion-xl"}
_MERGES = _HERE / "clip" / "merges.txt"
_WORD_END = "</w>"
_BOS, _EOS = "<|startoftext|>", "<|endoftext|>"
_HEADER_ALIGNMENT = 8


def own_configs(layout: Layout) -> Path:
    """The configurations that are kept here of a family: of Stable Diffusion 1.5, of XL's base. No tokenizer."""
    return OWN_CONFIGS / _FAMILIES[layout]


def write_configs(layout: Layout, out: Path) -> None:
    """Write all small files of a family's folder: the configurations kept here, and CLIP's tokenizer.

    Raises:
        OSError: it cannot be written there.
    """
    shutil.copytree(own_configs(layout), out, dirs_exist_ok=True)
    for words in layout.text_encoders.values():
        if not (out / words / "merges.txt").exists():
            _write_tokenizer(out / words)


def write_folder(
    checkpoint: Checkpoint,
    configs: Path,
    out: Path,
    *,
    writing: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> None:
    """Write a checkpoint's folder.

    Args:
        configs: a folder in diffusers' layout, of which only the configuration and the tokenizer are read.
        out: what to write; replaced if it is there.
        writing: entered around each file of weights that is written, with its name.

    Raises:
        CheckpointError: the file cannot be used, or the configuration is of another kind of model.
        OSError: the disk is full, or not to be written to.
    """
    shutil.rmtree(out, ignore_errors=True)
    _write_small_files(checkpoint, configs, out)
    name = checkpoint.path.name
    weights = {part: read_json(out / part / "config.json") for part in checkpoint.layout.weights}
    for part, config in weights.items():
        _check(name, part, checkpoint, config)
    with _Mapped(checkpoint.path) as tensors:
        for part, stem in checkpoint.layout.weights.items():
            config = weights[part]
            given = given_weights(part, checkpoint, tensors, config)
            kept = {saved_name(part, key): given[key] for key in wanted_shapes(part, config)}
            with writing(part):
                _write_half(kept, out / part / f"{stem}.safetensors", name)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointError: the file is missing or holds something else.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent.name}/{path.name} is missing") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.parent.name}/{path.name} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.parent.name}/{path.name} does not hold a JSON object")
    return content


def _write_small_files(checkpoint: Checkpoint, configs: Path, out: Path) -> None:
    """Copy them, and make the UNet's input and the noise schedule what the checkpoint's are."""
    index = read_json(configs / INDEX)
    layout = layout_of(index.get("_class_name"))
    if layout is not checkpoint.layout:
        said = layout.name if layout is not None else str(index.get("_class_name"))
        raise CheckpointError(
            f"{checkpoint.path.name} is of {checkpoint.layout.name}, the configuration of {said}; {SUPPORTED}"
        )
    for folder, component in layout.parts.items():
        for name in component.configs:
            if (configs / folder / name).is_file():
                (out / folder).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(configs / folder / name, out / folder / name)
    unet = read_json(out / "unet" / "config.json")
    if checkpoint.text_width != unet.get("cross_attention_dim"):
        raise CheckpointError(
            f"the checkpoint's text embeddings have {checkpoint.text_width} values and the configuration's "
            f"{unet.get('cross_attention_dim')}; name a model of the same kind with --config-from (Stable "
            "Diffusion 2.x always needs it)"
        )
    _write_json(out / "unet" / "config.json", {**unet, "in_channels": checkpoint.unet_channels})
    schedule = out / "scheduler" / "scheduler_config.json"
    if checkpoint.predicts:
        _write_json(schedule, {**read_json(schedule), **checkpoint.predicts})
    kind = "StableDiffusionXL" if layout is STABLE_DIFFUSION_XL else "StableDiffusion"
    inpaints = "Inpaint" if checkpoint.unet_channels == 9 else ""
    own = {
        key: index[key]
        for key in ("_diffusers_version", "force_zeros_for_empty_prompt", *layout.parts)
        if key in index
    }
    _write_json(out / INDEX, {"_class_name": f"{kind}{inpaints}Pipeline", **own})


def _check(name: str, part: str, checkpoint: Checkpoint, config: Mapping[str, Any]) -> None:
    """Every weight of a part is there, in the shape that the configuration gives it.

    By names and shapes alone, before gigabytes are read.
    """
    import torch

    tensors = {key: torch.empty(entry.shape, device="meta") for key, entry in checkpoint.header.items()}
    try:
        wanted = wanted_shapes(part, config)
        given = given_weights(part, checkpoint, tensors, config)
    except KeyError as error:
        raise CheckpointError(f"{name} lacks a weight of the {part}: {error.args[0]}") from error
    except Exception as error:  # the configuration makes no network; the libraries raise anything
        raise CheckpointError(
            f"{name} does not fit the configuration: its {part}: {_reason(error)}"
        ) from error
    lacking = sorted(wanted.keys() - given.keys())
    if lacking:
        raise CheckpointError(f"{name} lacks {len(lacking)} weights of the {part}, {lacking[0]} first")
    for key in sorted(wanted):
        if wanted[key] != tuple(given[key].shape):
            raise CheckpointError(
                f"{name} does not fit the configuration: {key} of the {part} has the shape "
                f"{list(given[key].shape)}, and should have {list(wanted[key])}"
            )


class _Mapped:
    """While open, all tensors of a file, mapped into memory and read where they are used."""

    def __init__(self, path: Path) -> None:
        from safetensors import safe_open

        self._file = safe_open(path, framework="pt")

    def __enter__(self) -> dict[str, "torch.Tensor"]:
        file = self._file.__enter__()
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict

    def __exit__(self, *reason: object) -> None:
        self._file.__exit__(*reason)


def _write_half(tensors: Mapping[str, "torch.Tensor"], target: Path, name: str) -> None:
    """Write tensors as a safetensors file in half precision.

    The format: 8 bytes of little-endian header length, a JSON header, data
    (https://github.com/huggingface/safetensors#format).

    Raises:
        CheckpointError: one is not finite, or does not fit.
    """
    import torch

    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for key, tensor in sorted(tensors.items()):
        size = 2 * tensor.numel()
        entries[key] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [place, place + size]}
        place += size
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % _HEADER_ALIGNMENT)
    with target.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for key, tensor in sorted(tensors.items()):
            half = tensor.detach().to(torch.float16).contiguous()
            if not bool(half.isfinite().all()):
                if bool(tensor.float().isfinite().all()):
                    raise CheckpointError(f"{name}: {key} holds values beyond fp16's range (65504)")
                raise CheckpointError(f"{name}: {key} holds NaN or infinity; the checkpoint is broken")
            file.write(half.numpy().data)
        file.flush()
        os.fsync(file.fileno())


def _write_tokenizer(folder: Path) -> None:
    """CLIP's byte-pair tokenizer, whose vocabulary follows from its merges: bytes, bytes that end a word, what is
    merged, and two marks.

    Source: https://github.com/openai/CLIP/blob/main/clip/simple_tokenizer.py
    """
    merges = _MERGES.read_text("utf-8")
    letters = _letters_of_bytes()
    words = [*letters, *(letter + _WORD_END for letter in letters)]
    words += ["".join(line.split(" ")) for line in merges.splitlines()[1:]]
    vocabulary = {word: number for number, word in enumerate([*words, _BOS, _EOS])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "merges.txt").write_text(merges, "utf-8")
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")


def _letters_of_bytes() -> list[str]:
    """A printable character for each byte: itself where it is one, else one from 256 up."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [number for number in range(256) if number not in printable]
    return [chr(number) for number in printable] + [chr(256 + i) for i in range(len(others))]


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _reason(error: BaseException) -> str:
    """The first line of what a library says, or what diffusers means with a long one."""
    text = str(error).strip() or type(error).__name__
    shape = re.search(r"(\S+) expected shape torch\.Size\((.+?)\), but got torch\.Size\((.+?)\)", text)
    if shape:
        return f"{shape[1]} has the shape {shape[3]}, and should have {shape[2]}"
    return text.splitlines()[0]
