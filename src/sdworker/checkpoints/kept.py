"""The folders that a worker's single checkpoints become: made once, for all that share the place.

    <where the file is>/.converted/<its name>-<its mark>/     the folder
    <where the file is>/.converted/<its name>-<its mark>.lock whoever is at it has it locked

Where nothing can be written beside the file, or another place is wanted, the same there. The mark tells versions
of a file apart: by its size, when it was written, and its header. A folder appears when it is whole, in one step;
one of a version that is no more is deleted when that of the next appears.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdworker.checkpoints.errors import CheckpointError
from sdworker.checkpoints.folder import own_configs, read_json, write_configs, write_folder
from sdworker.checkpoints.recognise import Checkpoint, read_checkpoint
from sdworker.model_layout import INDEX, Layout

__all__ = ["Described", "described", "kept_folder"]

_FOLDER = ".converted"
_PARTIAL = ".partial"
_STALE_S = 24 * 3600.0
_NOT_TO_BE_WRITTEN = (errno.EROFS, errno.EACCES, errno.EPERM)


@dataclass(frozen=True)
class Described:
    """What is known of a checkpoint's folder before there is one.

    Attributes:
        layout: of which family it is.
        configs: a folder with the configurations that it will have, but for what follows.
        index, scheduler_config: those files' contents.
        weights: component → how many numbers its weights are.
    """

    layout: Layout
    configs: Path
    index: dict[str, Any]
    scheduler_config: dict[str, Any]
    weights: dict[str, int]


def described(file: Path) -> Described:
    """What a checkpoint is, by its header.

    Raises:
        CheckpointError: it is no whole model, or of a kind whose configuration is not kept here.
    """
    checkpoint = _read(file)
    configs = own_configs(checkpoint.layout)
    scheduler = read_json(configs / "scheduler" / "scheduler_config.json")
    return Described(
        checkpoint.layout,
        configs,
        read_json(configs / INDEX),
        {**scheduler, **checkpoint.predicts},
        {part: checkpoint.count(part) for part in checkpoint.layout.weights},
    )


def kept_folder(file: Path, elsewhere: Path | None = None) -> Path:
    """The folder that a checkpoint was made, or is made now, which takes as long as reading and writing it.

    Args:
        elsewhere: where it is kept. None: beside the file, or where nothing can be written there, in a temporary
            folder.

    Raises:
        CheckpointError: the file cannot be made one, or there is no place for it.
    """
    mark = _mark(file)
    places = [file.parent / _FOLDER, _own_place()] if elsewhere is None else [elsewhere]
    for place in places:
        if (place / f"{file.stem}-{mark}" / INDEX).exists():
            return place / f"{file.stem}-{mark}"
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            if error.errno in _NOT_TO_BE_WRITTEN and place is not places[-1]:
                continue
            raise _no_place(file, place, error) from error
        return _make(file, mark, place)
    raise AssertionError("the last place was taken or refused")


def _own_place() -> Path:
    """Where a worker keeps what it cannot keep beside the files."""
    try:
        temporary = Path(tempfile.gettempdir())
    except FileNotFoundError:  # nothing can be written anywhere
        temporary = Path.cwd()
    return temporary / f"sdworker-converted-{os.getuid()}"


def _make(file: Path, mark: str, place: Path) -> Path:
    folder = place / f"{file.stem}-{mark}"
    work = place / f"{folder.name}{_PARTIAL}-{os.getpid()}-{time.monotonic_ns()}"
    try:
        with _locked(place / f"{folder.name}.lock"):
            if (folder / INDEX).exists():  # by whoever had it locked
                return folder
            _drop_stale(place, folder.name)
            try:
                work.mkdir()
                checkpoint = _read(file)
                write_configs(checkpoint.layout, work / "configs")
                write_folder(checkpoint, work / "configs", work / "model")
                if _mark(file) != mark:
                    raise CheckpointError(f"{file.name} changed while it was read; it is tried again")
                _publish(work / "model", folder)
            finally:
                shutil.rmtree(work, ignore_errors=True)
            _drop_others(place, file.stem, folder)
    except OSError as error:
        raise _no_place(file, place, error) from error
    return folder


def _read(file: Path) -> Checkpoint:
    checkpoint = read_checkpoint(file)
    width = read_json(own_configs(checkpoint.layout) / "unet" / "config.json")["cross_attention_dim"]
    if checkpoint.text_width != width:
        raise CheckpointError(
            f"{file.name} is of a kind whose configuration no file tells, as Stable Diffusion 2.x (its UNet reads "
            f"texts {checkpoint.text_width} wide, not {width}): make a folder of it, with `python -m "
            "builder.fetch_model FILE --config-from MODEL`"
        )
    return checkpoint


def _publish(made: Path, folder: Path) -> None:
    try:
        made.rename(folder)
    except OSError:
        # On file systems without locks somebody else may have been quicker.
        if not (folder / INDEX).exists():
            raise


def _mark(file: Path) -> str:
    """Of this version of a file.

    Raises:
        CheckpointError: it is not there, or cannot be read.
    """
    try:
        status = file.stat()
        with file.open("rb") as stream:
            start = stream.read(8)
            header = stream.read(min(int.from_bytes(start, "little"), 1 << 20))
    except OSError as error:
        raise CheckpointError(f"{file.name} cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns} ".encode() + start + header)
    return digest.hexdigest()[:12]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """While open, nobody else has it open; waits for whoever has."""
    with path.open("ab") as file:
        # A file system without locks: at worst two workers make the same folder, and the first one's counts.
        with contextlib.suppress(OSError):
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        yield


def _drop_stale(place: Path, name: str) -> None:
    """What workers left that were killed."""
    for left in place.glob(f"{_escaped(name)}{_PARTIAL}-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_S:
                shutil.rmtree(left, ignore_errors=True)


def _drop_others(place: Path, stem: str, kept: Path) -> None:
    """Folders of other versions of a file. Whoever reads one reads on, or is told and tries again."""
    length = len(kept.name) - len(stem)
    for other in place.glob(f"{_escaped(stem)}-*"):
        name = other.name.removesuffix(".lock")
        if name == kept.name or len(name) - len(stem) != length or _PARTIAL in name:
            continue
        if other.is_dir():
            shutil.rmtree(other, ignore_errors=True)
        else:
            other.unlink(missing_ok=True)


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _no_place(file: Path, place: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{file.name} cannot be kept as a folder in {place}: {error.strerror or error}; CONVERTED_DIR may name "
        "another place"
    )
