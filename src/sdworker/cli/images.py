"""What kind of image some bytes are, for naming its file."""

__all__ = ["suffix_of"]

_SUFFIXES = ((b"\x89PNG", ".png"), (b"\xff\xd8\xff", ".jpg"), (b"RIFF", ".webp"))


def suffix_of(data: bytes) -> str:
    """The usual file suffix of an image, by its first bytes; `.bin` if it is none of ours."""
    return next((suffix for head, suffix in _SUFFIXES if data.startswith(head)), ".bin")
