"""Where models are when MODEL_DIR does not say."""

from pathlib import Path

__all__ = ["BAKED_MODEL", "EMBEDDED_MODEL"]

BAKED_MODEL = Path("/opt/model")
"""Where the Dockerfile puts the model."""

EMBEDDED_MODEL = Path(__file__).resolve().parents[2] / "models" / "emoji"
"""The small model in the repository."""
