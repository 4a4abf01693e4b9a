"""Is this a Stable Diffusion model folder the engine can load? Answered without loading it.

A worker whose model is missing, half copied or of another kind must refuse to start and name the file, not
fail at the first job with a traceback out of a library.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdworker.model_layout import INDEX, LAYOUTS, Layout, layout_of

__all__ = ["ModelError", "ModelFolder", "check_complete", "check_model_folder"]


class ModelError(Exception):
    """The model folder cannot be used; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class ModelFolder:
    """A checked folder in diffusers' layout.

    Attributes:
        path: the folder.
        layout: of which family it is.
        variants: component → the weights' variant, `fp16` for `model.fp16.safetensors`, None for none.
        scheduler_config: the contents of `scheduler/scheduler_config.json`.
    """

    path: Path
    layout: Layout
    variants: dict[str, str | None]
    scheduler_config: dict[str, Any]


_VARIANTS = (None, "fp16")


def check_model_folder(path: Path) -> ModelFolder:
    """Check that every file is there, whole and of the right kind.

    Raises:
        ModelError: naming the file.
    """
    if not path.is_dir():
        raise ModelError(
            f"there is no model folder at {path}; set MODEL_DIR to a folder in diffusers' layout"
        )
    index = _read_json(path / INDEX)
    kind = index.get("_class_name")
    layout = layout_of(kind)
    if layout is None:
        raise ModelError(
            f"{path / INDEX} describes a {kind or 'pipeline of unknown kind'}; this worker serves "
            + "; ".join(f"{known.name} ({', '.join(known.pipelines)})" for known in LAYOUTS)
        )
    for component in layout.weights:
        _read_json(path / component / "config.json")
    _check_tokenizer(path / "tokenizer")
    return ModelFolder(
        path=path,
        layout=layout,
        variants={
            component: _check_weights(path / component, stem) for component, stem in layout.weights.items()
        },
        scheduler_config=_read_json(path / "scheduler" / "scheduler_config.json"),
    )


def check_complete(folder: Path, info: Mapping[str, Any]) -> None:
    """Refuse a network that was loaded with some of its weights lacking, which would then be random.

    Args:
        info: `missing_keys` and `mismatched_keys`, as diffusers' and transformers' `output_loading_info` has them.

    Raises:
        ModelError: naming the first of them.
    """
    found = [*(info.get("missing_keys") or ()), *(info.get("mismatched_keys") or ())]
    lacking = sorted(name if isinstance(name, str) else str(name[0]) for name in found)  # or name and shapes
    if lacking:
        raise ModelError(f"{folder} lacks {len(lacking)} of its weights, or has them misshapen: {lacking[0]}")


def _check_tokenizer(folder: Path) -> None:
    """The library takes a vocabulary without merges for granted and answers damage with whatever it meets."""
    if (folder / "tokenizer_config.json").is_file():
        _read_json(folder / "tokenizer_config.json")
    if (folder / "tokenizer.json").is_file():
        if not isinstance(_read_json(folder / "tokenizer.json").get("model"), dict):
            raise ModelError(f"{folder / 'tokenizer.json'} is damaged: it holds no tokenizer")
        return
    if not _read_json(folder / "vocab.json"):
        raise ModelError(f"{folder / 'vocab.json'} is damaged: it is empty")
    merges = [line for line in _read_text(folder / "merges.txt").splitlines() if not line.startswith("#")]
    if not any(merges):
        raise ModelError(f"{folder / 'merges.txt'} is damaged: it holds no merges")


def _check_weights(folder: Path, stem: str) -> str | None:
    """The variant of the weights found, after a look at their size."""
    for variant in _VARIANTS:
        name = f"{stem}.{variant}" if variant else stem
        whole = folder / f"{name}.safetensors"
        shards = folder / (
            f"{stem}.safetensors.index.{variant}.json" if variant else f"{stem}.safetensors.index.json"
        )
        if whole.is_file():
            _check_safetensors(whole)
            return variant
        if shards.is_file():
            for shard in _shards(shards):
                _check_safetensors(folder / shard)
            return variant
    pickled = next((file for file in folder.glob("*.bin")), None)
    hint = (
        f" ({pickled.name} is a pickle, which can run code: get the model as safetensors)" if pickled else ""
    )
    raise ModelError(f"{folder / stem}.safetensors is missing{hint}")


def _shards(index: Path) -> list[str]:
    """The files that an index of sharded weights names."""
    weight_map = _read_json(index).get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise ModelError(f"{index} is damaged: its weight_map names no files")
    return sorted(set(names))


def _check_safetensors(file: Path) -> None:
    """Compare the file's length with what its header promises.

    The format: 8 bytes of little-endian header length, a JSON header with each tensor's `data_offsets`, data
    (https://github.com/huggingface/safetensors#format).
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            if start.startswith(b"version "):
                raise ModelError(_pointer(file))
            if len(start) < 8:
                raise ModelError(f"{file} is damaged: it has only {size} bytes")
            (length,) = struct.unpack("<Q", start)
            if length > size - 8:
                raise ModelError(
                    f"{file} is damaged: it has {size} bytes, its header alone should have {length}"
                )
            promised = 8 + length + _data_bytes(json.loads(stream.read(length)))
    except FileNotFoundError:
        raise ModelError(f"{file} is missing") from None
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ModelError(f"{file} is damaged: its safetensors header cannot be read") from error
    if size != promised:
        raise ModelError(f"{file} is damaged: it has {size} bytes, its header promises {promised}")


def _data_bytes(header: Any) -> int:
    """How many bytes of data a safetensors header promises; any error means that it is none."""
    return max(int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read_text(file))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} is damaged: it should hold a JSON object")
    return content


def _read_text(file: Path) -> str:
    try:
        text = file.read_text("utf-8")
    except FileNotFoundError:
        raise ModelError(f"{file} is missing") from None
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{file} is damaged: it is no text") from error
    if text.startswith("version https://git-lfs"):
        raise ModelError(_pointer(file))
    return text


def _pointer(file: Path) -> str:
    return f"{file} is a Git LFS pointer, not the file itself: run `git lfs pull`"
