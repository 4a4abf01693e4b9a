"""The data: 128 px emoji with their names and tags, from two npm packages into one file.

`gather` writes `data.npz`, which is all that training needs afterwards: it can be carried to a machine
that has a GPU and no network. Pictures stay transparent in it, so a background is chosen when one is drawn.
"""

import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = 128
LARGE_SIZE = 256
"""Side of the published pictures, in pixels."""
PICTURE_PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"
NAME_PACKAGE = "emojibase-data@17.0.0"

COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (16, 16, 16),
    "gray": (128, 128, 128),
    "red": (214, 40, 40),
    "orange": (247, 140, 30),
    "yellow": (250, 215, 60),
    "green": (50, 160, 70),
    "blue": (40, 90, 210),
    "purple": (130, 60, 180),
    "pink": (250, 150, 190),
}
"""Background colours by name; the first is what a prompt gets that asks for none."""

# emojibase's groups for skin tones and hair ("component") and for flags; letters have no group at all.
LEFT_OUT_GROUPS = {2, 9, None}

SMILEYS, PEOPLE, ANIMALS, FOOD, PLACES, ACTIVITIES, OBJECTS, SYMBOLS = 0, 1, 3, 4, 5, 6, 7, 8
GROUP_NAMES = {
    SMILEYS: "smileys & emotion",
    PEOPLE: "people & body",
    ANIMALS: "animals & nature",
    FOOD: "food & drink",
    PLACES: "travel & places",
    ACTIVITIES: "activities",
    OBJECTS: "objects",
    SYMBOLS: "symbols",
}
"""The groups that are taught, by emojibase's numbers."""


@dataclass(frozen=True)
class Emojis:
    """Pictures `[count, 128, 128, 4]` as uint8 RGBA, and what they show, in the same order."""

    pictures: np.ndarray
    names: list[str]
    tags: list[list[str]]
    groups: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def first(self, count: int) -> "Emojis":
        """The first `count` emoji: for a trial that must be over in seconds."""
        return Emojis(self.pictures[:count], self.names[:count], self.tags[:count], self.groups[:count])


def gather(path: Path, downloads: Path) -> None:
    """Fetch both packages into `downloads` (unless they are there) and write `data.npz` to `path`.

    Raises RuntimeError when npm is missing or fails, with npm's own words.
    """
    by_code = _read_entries(downloads)
    pictures = _read_pictures(downloads, by_code, SIZE)
    codes = [code for code in by_code if code in pictures]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        pictures=np.stack([pictures[code] for code in codes]),
        names=np.array([by_code[code]["label"] for code in codes]),
        tags=np.array([json.dumps(by_code[code].get("tags", [])) for code in codes]),
        groups=np.array([by_code[code]["group"] for code in codes]),
    )


def load(path: Path) -> Emojis:
    """Read what `gather` wrote."""
    with np.load(path) as data:
        tags = [json.loads(tags) for tags in data["tags"]]
        return Emojis(data["pictures"], data["names"].tolist(), tags, data["groups"])


def read_large(downloads: Path, emojis: Emojis) -> np.ndarray:
    """The pictures of `emojis` as they were published: uint8 RGBA `[n, 256, 256, 4]`.

    Raises RuntimeError when npm is missing or fails, with npm's own words.
    """
    code_by_name = {entry["label"]: code for code, entry in _read_entries(downloads).items()}
    codes = [code_by_name[name] for name in emojis.names]
    found = _read_pictures(downloads, set(codes), LARGE_SIZE)
    return np.stack([found[code] for code in codes])


def composite(pictures: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """RGBA `[n, h, w, 4]` over plain `colours` `[n, 3]`: RGB `[n, h, w, 3]`, all uint8."""
    alpha = pictures[..., 3:].astype(np.uint16)
    mixed = pictures[..., :3] * alpha + colours[:, None, None, :].astype(np.uint16) * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)


def on_colour(pictures: np.ndarray, name: str) -> np.ndarray:
    """RGBA `[n, h, w, 4]` over one named colour."""
    return composite(pictures, np.broadcast_to(np.array(COLOURS[name], np.uint8), (len(pictures), 3)))


def contact_sheet(pictures: np.ndarray, columns: int) -> Image.Image:
    """RGB `[n, h, w, 3]` side by side, row after row."""
    count, height, width, _ = pictures.shape
    rows = -(-count // columns)
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for index, picture in enumerate(pictures):
        top, left = index // columns * height, index % columns * width
        sheet[top : top + height, left : left + width] = picture
    return Image.fromarray(sheet)


def _code(hexcode: str) -> str:
    # U+FE0F only asks for a picture instead of a letter; the two packages do not agree on writing it.
    return hexcode.lower().replace("-fe0f", "")


def _read_entries(downloads: Path) -> dict[str, dict[str, Any]]:
    """emojibase's entries by code point, without the groups that are left out."""
    entries = json.loads(_read_member(_fetch(NAME_PACKAGE, downloads), "package/en/data.json"))
    return {_code(entry["hexcode"]): entry for entry in entries if entry.get("group") not in LEFT_OUT_GROUPS}


def _read_pictures(downloads: Path, codes: Container[str], size: int) -> dict[str, np.ndarray]:
    """RGBA `[size, size, 4]` of those code points that have a picture."""
    pictures: dict[str, np.ndarray] = {}
    with tarfile.open(_fetch(PICTURE_PACKAGE, downloads)) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith(".webp") else None
            if file and (code := _code(Path(member.name).stem)) in codes:
                pictures[code] = _shrink(file.read(), size)
    return pictures


def _shrink(webp: bytes, size: int) -> np.ndarray:
    picture = Image.open(io.BytesIO(webp)).convert("RGBA")
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    pixels: np.ndarray[Any, np.dtype[np.uint8]] = np.array(picture)
    pixels[pixels[..., 3] == 0] = 0  # colours nobody sees only cost space
    return pixels


def _fetch(package: str, downloads: Path) -> Path:
    downloads.mkdir(parents=True, exist_ok=True)
    archive = downloads / (package.removeprefix("@").replace("/", "-").replace("@", "-") + ".tgz")
    if archive.exists():
        return archive
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError(f"npm is needed to fetch {package}; or put its archive at {archive}")
    done = subprocess.run([npm, "pack", package], cwd=downloads, capture_output=True, text=True, check=False)
    if done.returncode or not archive.exists():
        raise RuntimeError(f"npm pack {package} failed: {done.stderr.strip()}")
    return archive


def _read_member(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as opened:
        file = opened.extractfile(name)
        if file is None:
            raise RuntimeError(f"{archive} has no {name}")
        return file.read()
