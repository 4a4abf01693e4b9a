"""`memory` in miniature: one kind of job, the one with the most to it, at one small size."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.jobs import memory
from bench.sizes import Size

Figures = Callable[[str], dict[str, Any]]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there the device's memory is measured, and more of it")
def test_a_job_takes_more_than_the_loaded_model(
    model: Path, figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_KINDS", ("inpaint",))
    memory.run(model, 1, sizes=[(128, 64)], rows=[4, 8], mixed_jobs=20)
    written = figures("memory")
    assert written["device"] == "cpu"
    (cell,) = written["cells"]  # the fewest rows only, as for every job that starts from a picture
    assert (cell["kind"], cell["width"], cell["height"], cell["rows"]) == ("inpaint", 128, 64, 4)
    assert cell["fits"]
    weights_bytes = sum(file.stat().st_size for file in model.glob("*/*.safetensors"))
    assert weights_bytes < cell["loaded_bytes"] < cell["peak_bytes"] < cell["loaded_bytes"] + 2**30
    assert cell["reserved_bytes"] is None
    assert written["mixed"]["jobs"] == 20
    loaded, *used = written["mixed"]["used_bytes"]
    assert len(used) == 10
    assert weights_bytes < written["mixed"]["left_bytes"] < max(used) + 2**20
    assert all(weights_bytes < loaded < bytes_ < loaded + 2**30 for bytes_ in used)


def test_a_card_is_tried_with_what_is_expected_of_it_and_then_until_it_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cell(
        _process: object, _model: str, kind: str, size: Size, rows: int, limit_bytes: int
    ) -> dict[str, Any]:
        assert limit_bytes == 24e9
        return {"kind": kind, "size": size, "rows": rows, "fits": rows * size[0] * size[1] <= 32 * 512 * 512}

    monkeypatch.setattr(memory, "OwnProcess", nullcontext)
    monkeypatch.setattr(memory, "_cell", cell)
    tried = memory._fill_card("model", [(512, 512), (768, 768), (1024, 1024)])
    expected, larger = tried[:9], tried[9:]
    assert [one["rows"] for one in expected] == [16, 16, 16, 8, 8, 8, 4, 4, 4]
    assert [(one["size"][0], one["rows"], one["fits"]) for one in larger] == [
        (512, 32, True),
        (512, 64, False),
        (768, 16, False),
        (1024, 8, True),
        (1024, 16, False),
    ]
