"""Which picture sizes a bench goes through."""

from pathlib import Path

from sdworker.model_place import own_size

__all__ = ["Size", "parse_rows", "parse_sizes", "sizes_of"]

Size = tuple[int, int]
"""Width and height, in pixels."""

# Of each side: for a model of 512x512 that is 512x512, 768x768 and 1024x1024.
_MULTIPLES = (1.0, 1.5, 2.0)


def sizes_of(model: Path) -> list[Size]:
    """A model's own size and larger ones: 1, 2.25 and 4 times its area."""
    width, height = own_size(model)
    return [(int(width * multiple), int(height * multiple)) for multiple in _MULTIPLES]


def parse_sizes(text: str) -> list[Size]:
    """`512x512,768x512` as sizes.

    Raises:
        ValueError: it is anything else.
    """
    sizes = []
    for part in text.split(","):
        width, height = part.split("x")
        sizes.append((int(width), int(height)))
    return sizes


def parse_rows(text: str) -> list[int]:
    """`2,8` as numbers of rows.

    Raises:
        ValueError: it is anything else, or one is odd, for an image has two.
    """
    rows = [int(part) for part in text.split(",")]
    if any(count < 2 or count % 2 for count in rows):
        raise ValueError(f"rows must be even: {text}")
    return rows
