"""What a bench wrote."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import report


@pytest.fixture
def figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """Name of a bench → the figures it wrote, to a folder of this test's own."""
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")

    def read(name: str) -> dict[str, Any]:
        return json.loads((tmp_path / "results" / f"{name}.json").read_text())

    return read
