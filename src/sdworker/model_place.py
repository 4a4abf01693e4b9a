"""Where the model is."""

from pathlib import Path

__all__ = ["BAKED_MODEL", "EMBEDDED_MODEL", "model_folder"]

BAKED_MODEL = Path("/opt/model")
"""Where the Dockerfile puts the model."""

EMBEDDED_MODEL = Path(__file__).resolve().parents[2] / "models" / "emoji"
"""The small model in the repository."""


def model_folder(named: Path | None) -> Path:
    """The folder that was named, else the image's baked model, else the embedded one, there or not."""
    return named or (BAKED_MODEL if BAKED_MODEL.is_dir() else EMBEDDED_MODEL)
