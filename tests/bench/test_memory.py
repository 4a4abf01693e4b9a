"""`memory` in miniature: one kind of job, the one with the most to it, at one small size."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import memory

Figures = Callable[[str], dict[str, Any]]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there the device's memory is measured, and more of it")
def test_a_job_takes_more_than_the_loaded_model(
    model: Path, figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_KINDS", ("inpaint",))
    memory.run(model, 1, sizes=[(128, 64)], rows=[4, 8])
    written = figures("memory")
    assert written["device"] == "cpu"
    (cell,) = written["cells"]  # the fewest rows only, as for every job that starts from a picture
    assert (cell["kind"], cell["width"], cell["height"], cell["rows"]) == ("inpaint", 128, 64, 4)
    assert cell["fits"]
    weights_bytes = sum(file.stat().st_size for file in model.glob("*/*.safetensors"))
    assert weights_bytes < cell["loaded_bytes"] < cell["peak_bytes"] < cell["loaded_bytes"] + 2**30
    assert cell["reserved_bytes"] is None
