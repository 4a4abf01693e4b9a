"""What a safetensors file holds, by its header alone."""

from dataclasses import dataclass
from pathlib import Path

from sdworker.checkpoints.errors import CheckpointError

__all__ = ["Entry", "is_integer", "read_header", "read_metadata"]

_INTEGERS = {"BOOL", "U8", "I8", "I16", "U16", "I32", "U32", "I64", "U64"}


@dataclass(frozen=True)
class Entry:
    """A tensor as the file's header tells it, without its data."""

    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, Entry]:
    """Every tensor's name, type and shape. Reads the header only, but notices a file that is cut short.

    Raises:
        CheckpointError: it is not a whole safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            return {key: Entry(s.get_dtype(), tuple(s.get_shape())) for key, s in slices.items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path.name} is truncated, or not a safetensors file ({error})") from error


def read_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file that `read_header` has read says of itself; empty where it says nothing."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def is_integer(entry: Entry) -> bool:
    """Whether a tensor holds whole numbers, which no weight does."""
    return entry.dtype in _INTEGERS
