"""Is this a model folder the engine can load? Answered without loading it.

A worker whose model is missing, half copied or of another kind must refuse to start and name the file, not
fail at the first job with a traceback out of a library.
"""

import errno
import json
import math
import os
import re
import stat
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sdworker.engine.model_config import (
    SIZE_NUMBERS,
    ModelError,
    SchedulerConfig,
    TextConfig,
    TokenizerConfig,
    UnetConfig,
    VaeConfig,
    check_added,
    check_config,
    check_fit,
    quoted,
    shown,
)
from sdworker.model_layout import INDEX, LAYOUTS, REFINER, Layout, layout_of

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ModelError", "ModelFolder", "check_complete", "check_finite", "check_model_folder", "why_not"]


@dataclass(frozen=True)
class ModelFolder:
    """A checked folder in diffusers' layout.

    Attributes:
        path: the folder.
        layout: of which family it is.
        index: the contents of `model_index.json`.
        variants: component → the weights' variant, `fp16` for `model.fp16.safetensors`, None for none.
        weights: component → how many numbers its weights are.
        scheduler_config: the contents of `scheduler/scheduler_config.json`.
    """

    path: Path
    layout: Layout
    index: dict[str, Any]
    variants: dict[str, str | None]
    weights: dict[str, int]
    scheduler_config: dict[str, Any]

    @property
    def half_bytes(self) -> int:
        """What its weights take in half precision."""
        return 2 * sum(self.weights.values())


_VARIANTS = (None, "fp16")
# Bytes of an element, and whether it may be a weight; what is not listed safetensors does not read either.
_DTYPES = {
    **dict.fromkeys(("F8_E4M3", "F8_E5M2"), (1, True)),
    **dict.fromkeys(("BF16", "F16"), (2, True)),
    "F32": (4, True),
    "F64": (8, True),
    **dict.fromkeys(("BOOL", "I8", "U8"), (1, False)),
    **dict.fromkeys(("I16", "U16"), (2, False)),
    **dict.fromkeys(("I32", "U32"), (4, False)),
    **dict.fromkeys(("I64", "U64"), (8, False)),
}
# Counted in files, not learned.
_INTEGER_TENSORS = ("position_ids", "num_batches_tracked")
_LONGEST_HEADER_BYTES = 100_000_000  # what safetensors itself reads
_LONGEST_JSON_BYTES = 64_000_000  # a tokenizer takes four, an index of shards less than one


def check_model_folder(path: Path, *, half: bool = False, refines: bool = False) -> ModelFolder:
    """Check that every file is there, whole and of the right kind.

    Args:
        refines: it is to be a refiner, not a model.
        half: where there are weights in half precision beside full ones, take those.

    Raises:
        ModelError: naming the file.
    """
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise ModelError(f"the model folder {shown(path)} cannot be read: {error.strerror}") from None
        is_folder = False
    except ValueError:  # a null byte in a path, which only a call from Python can bring
        is_folder = False
    if not is_folder:
        raise ModelError(
            f"there is no model folder at {shown(path)}; set MODEL_DIR to a folder in diffusers' layout"
        )
    index = _read_json(path / INDEX)
    kind = index.get("_class_name")
    layout = layout_of(kind)
    if refines:
        if kind not in REFINER.pipelines or not _is_refiner(index):
            raise ModelError(f"{shown(path / INDEX)} describes a {_named(kind)}, not XL's refiner")
        layout = REFINER
    elif layout is None or not _has_its_encoders(index, layout):
        served = "; ".join(f"{known.name} ({', '.join(known.pipelines)})" for known in LAYOUTS)
        raise ModelError(f"{shown(path / INDEX)} describes a {_named(kind)}; this worker serves {served}")
    texts = {
        folder: _read_config(TextConfig, path / folder / "config.json") for folder in layout.text_encoders
    }
    unet = _read_config(UnetConfig, path / "unet" / "config.json")
    vae = _read_config(VaeConfig, path / "vae" / "config.json")
    check_fit(path, unet=unet, vae=vae, text_width=sum(text.hidden_size for text in texts.values()))
    if "text_encoder_2" in texts:
        pooled = texts["text_encoder_2"].projection_dim or 0
        check_added(path, unet=unet, pooled_width=pooled, numbers=SIZE_NUMBERS - refines)
    scheduler_file = path / "scheduler" / "scheduler_config.json"
    scheduler = _read_json(scheduler_file)
    check_config(SchedulerConfig, scheduler, scheduler_file)
    for folder, tokenizer in layout.text_encoders.items():
        _check_tokenizer(path / tokenizer, texts[folder])
    variants = _VARIANTS[::-1] if half else _VARIANTS
    found = {
        component: _check_weights(path / component, stem, variants)
        for component, stem in layout.weights.items()
    }
    return ModelFolder(
        path=path,
        layout=layout,
        index=index,
        variants={component: variant for component, (variant, _) in found.items()},
        weights={component: count for component, (_, count) in found.items()},
        scheduler_config=scheduler,
    )


def _has_its_encoders(index: Mapping[str, Any], layout: Layout) -> bool:
    """Whether the text encoders that an index names are the family's: a refiner has the second one alone."""
    has = _encoders(index)
    if "text_encoder_2" in layout.parts:
        return all(has.values())
    return not has["text_encoder_2"]


def _is_refiner(index: Mapping[str, Any]) -> bool:
    return _encoders(index) == {"text_encoder": False, "text_encoder_2": True}


def _encoders(index: Mapping[str, Any]) -> dict[str, bool]:
    """Which of the two an index names."""
    return {
        folder: index.get(folder) not in (None, [None, None], [])
        for folder in ("text_encoder", "text_encoder_2")
    }


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
        raise ModelError(
            f"{shown(folder)} lacks {len(lacking)} of its weights, or has them misshapen: {lacking[0]}"
        )


def check_finite(folder: Path, network: "nn.Module") -> None:
    """Refuse a network with NaN or infinity among its weights, of which every picture would be black.

    Args:
        network: on its device. One sum a weight, and one wait for all of them.

    Raises:
        ModelError: naming the first of them.
    """
    import torch

    named = [(name, weight) for name, weight in network.named_parameters() if weight.numel()]
    if not named:
        return
    sums = torch.stack([weight.detach().sum(dtype=torch.float32) for _, weight in named])
    for (name, weight), is_finite in zip(named, sums.isfinite().tolist(), strict=True):
        # The sum of finite numbers may be infinite, if hardly ever.
        if not is_finite and not bool(weight.detach().isfinite().all()):
            raise ModelError(f"{shown(folder)} is damaged: its weight {name} holds NaN or infinity")


def why_not(error: BaseException) -> str:
    """What a library meant when it could not load something, in a line."""
    text = str(error).strip() or type(error).__name__
    misshapen = re.search(r"(\S+) expected shape torch\.Size\((.+?)\), but got torch\.Size\((.+?)\)", text)
    if misshapen:
        name, wanted, found = misshapen.groups()
        return f"its weight {name} has the shape {found}, and should have {wanted}"
    line = text.splitlines()[0]
    return f"{line} is missing or unknown" if isinstance(error, KeyError) else line


def _check_tokenizer(folder: Path, text: TextConfig) -> None:
    """The library takes a vocabulary without merges for granted and answers damage with whatever it meets."""
    if _is_file(folder / "tokenizer_config.json"):
        _read_config(TokenizerConfig, folder / "tokenizer_config.json")
    whole = folder / "tokenizer.json"
    if _is_file(whole):
        content = _read_json(whole)
        if not isinstance(content.get("model"), dict):
            raise ModelError(f"{shown(whole)} is damaged: it holds no tokenizer")
        _check_vocabulary(whole, content["model"].get("vocab"), text)
        return
    vocabulary = _read_json(folder / "vocab.json")
    if not vocabulary:
        raise ModelError(f"{shown(folder / 'vocab.json')} is damaged: it is empty")
    _check_vocabulary(folder / "vocab.json", vocabulary, text)
    merges = [line for line in _read_text(folder / "merges.txt").splitlines() if not line.startswith("#")]
    if not any(merges):
        raise ModelError(f"{shown(folder / 'merges.txt')} is damaged: it holds no merges")


def _check_vocabulary(file: Path, vocabulary: object, text: TextConfig) -> None:
    """An id beyond the embedding's end would fail the first prompt that has it."""
    if not isinstance(vocabulary, dict):
        return  # a kind of tokenizer without one; the library reads it, or says why not
    for token, number in vocabulary.items():
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < text.vocab_size:
            raise ModelError(
                f"{shown(file)} does not fit the text encoder: the token {quoted(token)} has the number "
                f"{quoted(number)}, and vocab_size is {text.vocab_size}"
            )


def _check_weights(folder: Path, stem: str, variants: Sequence[str | None]) -> tuple[str | None, int]:
    """The variant of the weights found, and how many numbers they are, after a look at their size."""
    for variant in variants:
        name = f"{stem}.{variant}" if variant else stem
        whole = folder / f"{name}.safetensors"
        shards = folder / (
            f"{stem}.safetensors.index.{variant}.json" if variant else f"{stem}.safetensors.index.json"
        )
        if _is_file(whole):
            return variant, _check_safetensors(whole)
        if _is_file(shards):
            return variant, sum(_check_safetensors(folder / shard) for shard in _shards(shards))
    pickled = next(iter(sorted(folder.glob("*.bin"))), None)
    hint = (
        f" ({pickled.name} is a pickle, which can run code: get the model as safetensors)" if pickled else ""
    )
    raise ModelError(f"{shown(folder / stem)}.safetensors is missing{hint}")


def _shards(index: Path) -> list[str]:
    """The files that an index of sharded weights names."""
    weight_map = _read_json(index).get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise ModelError(f"{shown(index)} is damaged: its weight_map names no files")
    outside = next((name for name in names if Path(name).name != name), None)
    if outside is not None:
        raise ModelError(f"{shown(index)} is damaged: {quoted(outside)} is not a file's name")
    return sorted(set(names))


def _check_safetensors(file: Path) -> int:
    """Compare the file's length with what its header promises; how many numbers there are in it.

    The format: 8 bytes of little-endian header length, a JSON header with each tensor's `data_offsets`, data
    (https://github.com/huggingface/safetensors#format).
    """
    try:
        with _open(file) as stream:
            size = os.fstat(stream.fileno()).st_size
            start = stream.read(8)
            if start.startswith(b"version "):
                raise ModelError(_pointer(file))
            if len(start) < 8:
                raise ModelError(f"{shown(file)} is damaged: it has only {size} bytes")
            (length,) = struct.unpack("<Q", start)
            if length > size - 8:
                raise ModelError(
                    f"{shown(file)} is damaged: it has {size} bytes, its header alone should have {length}"
                )
            if length > _LONGEST_HEADER_BYTES:
                raise ModelError(f"{shown(file)} is damaged: its header has {length} bytes")
            header = json.loads(stream.read(length))
        promised = 8 + length + _data_bytes(header)
    except OSError as error:
        raise ModelError(f"{shown(file)} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ModelError(f"{shown(file)} is damaged: its safetensors header cannot be read") from error
    if size != promised:
        raise ModelError(f"{shown(file)} is damaged: it has {size} bytes, its header promises {promised}")
    for name, entry in header.items():
        wrong = None if name == "__metadata__" else _wrong_tensor(name, entry)
        if wrong:
            raise ModelError(f"{shown(file)} is damaged: its tensor {quoted(name)} {wrong}")
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def _data_bytes(header: Any) -> int:
    """How many bytes of data a safetensors header promises; any error means that it is none."""
    return max(int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__")


def _wrong_tensor(name: str, entry: Mapping[str, Any]) -> str | None:
    """What is wrong with a tensor, by its line in the header."""
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        return f"is of the type {quoted(dtype)}"
    if not isinstance(shape, list) or not all(isinstance(side, int) and side >= 0 for side in shape):
        return f"has the shape {quoted(shape)}"
    element_bytes, is_weight = _DTYPES[dtype]
    begin, end = offsets[0], offsets[1]
    if not isinstance(begin, int) or not isinstance(end, int) or not 0 <= begin <= end:
        return f"lies at {quoted(offsets)}"
    if end - begin != math.prod(shape) * element_bytes:
        return f"of {quoted(shape)} in {dtype} does not take the {end - begin} bytes that it has"
    if not is_weight and not name.endswith(_INTEGER_TENSORS):
        return f"is of the type {dtype}, and weights are floating-point numbers"
    return None


def _read_config(schema: type[Any], file: Path) -> Any:
    return check_config(schema, _read_json(file), file)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read_text(file))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{shown(file)} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{shown(file)} is damaged: it should hold a JSON object")
    return content


def _read_text(file: Path) -> str:
    try:
        with _open(file) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > _LONGEST_JSON_BYTES:
                raise ModelError(
                    f"{shown(file)} is damaged: it has {size} bytes, far more than what it should hold"
                )
            text = stream.read().decode("utf-8")
    except OSError as error:
        raise ModelError(f"{shown(file)} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{shown(file)} is damaged: it is no text in UTF-8") from error
    if text.startswith("\ufeff"):
        raise ModelError(f"{shown(file)} begins with a byte order mark: save it as UTF-8 without one")
    if text.startswith("version https://git-lfs"):
        raise ModelError(_pointer(file))
    return text


def _open(file: Path) -> BinaryIO:
    """A file to be read, if it is one: a pipe in its place would keep the start waiting for ever.

    Raises:
        ModelError: it is missing, or no file.
        OSError: it cannot be read.
    """
    try:
        mode = file.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"{shown(file)} is missing") from None
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ModelError(f"{shown(file)} cannot be read: it is a device or a pipe")
    return file.open("rb")


def _is_file(file: Path) -> bool:
    """Whether something is there, be it what it should be or not; `_open` judges that."""
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # it is there, and cannot be reached
        return True
    return True


def _named(kind: object) -> str:
    return kind[:60] if isinstance(kind, str) and kind.isprintable() and kind else "pipeline of unknown kind"


def _pointer(file: Path) -> str:
    return f"{shown(file)} is a Git LFS pointer, not the file itself: run `git lfs pull`"
