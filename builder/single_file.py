"""A single `.safetensors` checkpoint, in the original Stable Diffusion layout, made a diffusers folder.

Such a file has weights but no configuration and no tokenizer. Those come from a model that it was trained from:
the family's own (`sdworker/checkpoints`), or a folder with its small files.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from builder.errors import FetchError
from builder.weights import writing
from sdworker.checkpoints import CheckpointError, read_checkpoint, write_configs, write_folder

__all__ = ["check", "unpack"]


def check(checkpoint: Path) -> None:
    """The file is a whole model that the worker can run.

    Raises:
        FetchError: saying what it is instead, or what it lacks.
    """
    with _told():
        read_checkpoint(checkpoint)


def unpack(checkpoint: Path, configs: Path | None, out: Path) -> None:
    """Write the checkpoint as a diffusers folder with fp16 weights.

    Args:
        checkpoint: The `.safetensors` file.
        configs: A folder in diffusers' layout, of which only the configuration and the tokenizer are read. None:
            those of the family that the file is of.
        out: The folder to write; replaced if it is there.

    Raises:
        FetchError: if the file cannot be used, or the configuration is of another kind of model.
    """
    with _told():
        read = read_checkpoint(checkpoint)
        if configs is None:
            configs = out.with_name("configs")
            write_configs(read.layout, configs)
        write_folder(read, configs, out, writing=writing)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise FetchError(str(error)) from error
