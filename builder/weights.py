"""Safetensors files: what is in them, and how they become half precision."""

import errno
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import FetchError
from sdworker.checkpoints import CheckpointError, Entry, header, is_integer

if TYPE_CHECKING:
    import torch

__all__ = [
    "link_or_copy",
    "read_header",
    "to_half",
    "writing",
]


def read_header(path: Path) -> Mapping[str, Entry]:
    """Every tensor's name, type and shape. Reads the header only, but notices a file that is cut short.

    Raises:
        FetchError: if it is not a whole safetensors file.
    """
    try:
        return header.read_header(path)
    except CheckpointError as error:
        raise FetchError(str(error)) from error


def to_half(sources: Sequence[Path], target: Path, *, link: bool) -> bool:
    """Write the tensors of all sources (a file, or its shards) to one file, floating-point ones as fp16.

    A single source that is fp16 already becomes the target as it is and keeps its hash: linked if `link`,
    for sources that are ours to share, else copied.

    Returns:
        Whether the bytes are new.

    Raises:
        FetchError: if a source is broken, or a tensor is not finite or does not fit fp16.
        OSError: if the disk is full.
    """
    entries = [entry for source in sources for entry in read_header(source).values()]
    kinds = {entry.dtype for entry in entries if not is_integer(entry)}
    tensors = _read_half(sources)
    if len(sources) == 1 and kinds <= {"F16"}:
        link_or_copy(sources[0], target, link=link)
        return False
    _save(tensors, target)
    return True


def link_or_copy(source: Path, target: Path, *, link: bool) -> None:
    """Give the target the source's content, by a hard link where that is allowed and possible."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        try:
            os.link(source.resolve(), target)
            return
        except OSError:
            pass  # another disk, or one without links: copying tells if something is really wrong
    shutil.copyfile(source, target)


def _read_half(sources: Sequence[Path]) -> dict[str, "torch.Tensor"]:
    """All tensors, floating-point ones as fp16 and finite."""
    import torch
    from safetensors import safe_open

    tensors: dict[str, torch.Tensor] = {}
    for source in sources:
        with safe_open(source, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a dict
                tensor = file.get_tensor(key)
                if tensor.is_floating_point():
                    tensor = _halve(tensor, f"{source.name}: {key}")
                tensors[key] = tensor
    return tensors


def _halve(tensor: "torch.Tensor", name: str) -> "torch.Tensor":
    import torch

    half = tensor.to(torch.float16)
    if torch.isfinite(half).all():
        return half
    if torch.isfinite(tensor.to(torch.float32)).all():
        raise FetchError(f"{name} holds values beyond fp16's range (65504)")
    raise FetchError(f"{name} holds NaN or infinity; the checkpoint is broken")


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Around code that writes safetensors: their library hides what the file system said; bring it out.

    Raises:
        OSError: with `errno.ENOSPC` if the disk is full.
    """
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        is_full = f"(os error {errno.ENOSPC})" in str(error)
        code, reason = (errno.ENOSPC, os.strerror(errno.ENOSPC)) if is_full else (errno.EIO, str(error))
        raise OSError(code, reason, name) from error


def _save(tensors: dict[str, "torch.Tensor"], target: Path) -> None:
    from safetensors.torch import save_file

    target.parent.mkdir(parents=True, exist_ok=True)
    with writing(target.name):
        save_file({key: value.contiguous() for key, value in tensors.items()}, target, {"format": "pt"})
