"""What kind of image some bytes are: for naming a file, and for sending one."""

import base64

__all__ = ["data_uri", "is_image", "suffix_of"]

_HEADS = (
    (b"\x89PNG", ".png", "png"),
    (b"\xff\xd8\xff", ".jpg", "jpeg"),
    (b"RIFF", ".webp", "webp"),
    (b"GIF8", ".gif", "gif"),
    (b"BM", ".bmp", "bmp"),
    (b"II*\x00", ".tif", "tiff"),
    (b"MM\x00*", ".tif", "tiff"),
)


def suffix_of(data: bytes) -> str:
    """The usual file suffix of an image, by its first bytes; `.bin` if it is none of ours."""
    return next((suffix for head, suffix, _ in _HEADS if data.startswith(head)), ".bin")


def is_image(data: bytes) -> bool:
    """Whether its first bytes are an image's."""
    return any(data.startswith(head) for head, _, _ in _HEADS)


def data_uri(data: bytes) -> str:
    """An image as a `data:` URI, which is how a file travels in a job."""
    kind = next((kind for head, _, kind in _HEADS if data.startswith(head)), "png")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
