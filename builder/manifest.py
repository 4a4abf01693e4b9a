"""`manifest.json`: what a model folder holds, where it came from, and how to tell that it is whole."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["MANIFEST", "Manifest", "Source", "digest_of", "problems", "read", "sha256_of", "write"]

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Source:
    """Where a model came from."""

    kind: str
    """`hub`, `hub-file`, `folder` or `file`."""
    name: str
    """The hub's id, with the file's name if it is one file; or a local name without its path."""
    revision: str | None = None
    """The hub's commit."""
    sha256: str | None = None
    """Of a single file, or of a local folder's needed files."""
    config_from: "Source | None" = None
    """Where a single file's configuration and tokenizer came from."""
    safety: bool = False
    """Whether its safety checker was kept."""


@dataclass(frozen=True)
class Manifest:
    """A model folder's provenance and content. No times, no paths: the same source gives the same bytes."""

    source: dict[str, Any]
    licence: str | None
    converted: list[str]
    """What was made here: weights cast to half precision or joined, a tokenizer brought into one file. All else is
    the source's own bytes."""
    files: dict[str, dict[str, Any]]
    """Relative path → `{"sha256": …, "size": …}`."""


def write(folder: Path, source: Source, licence: str | None, converted: list[str]) -> Manifest:
    """Hash every file of the folder and put the manifest beside them."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    files = {
        path.relative_to(folder).as_posix(): {"sha256": sha256_of(path), "size": path.stat().st_size}
        for path in paths
    }
    manifest = Manifest(asdict(source), licence, converted, files)
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n")
    return manifest


def read(folder: Path) -> Manifest | None:
    """The folder's manifest, or None if it has none of this kind."""
    try:
        content = json.loads((folder / MANIFEST).read_text())
        manifest = Manifest(**content)
        for expected in manifest.files.values():
            expected["sha256"], expected["size"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return manifest


def problems(folder: Path, manifest: Manifest) -> list[str]:
    """What differs between the folder and its manifest, a line a file; empty means whole."""
    found = []
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif path.stat().st_size != expected["size"] or sha256_of(path) != expected["sha256"]:
            found.append(f"{name} has changed")
    return found


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(folder: Path, names: Iterable[str]) -> str:
    """One SHA-256 over the named files, names included."""
    lines = "".join(f"{sha256_of(folder / name)}  {name}\n" for name in sorted(names))
    return hashlib.sha256(lines.encode()).hexdigest()
