"""One device's memory for several models, their LoRAs and their ControlNets: no part is promised twice."""

import shutil
from pathlib import Path

import pytest
import torch

from sdworker.budgets import Budgets, most_at_once
from sdworker.catalogue import list_models
from sdworker.settings import Settings, SettingsError
from sdworker.startup import build_worker

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("weights", "budget", "count"),
    [
        ([2, 2, 2], 6, 3),
        ([2, 2, 2], 5, 2),
        ([7, 2, 2], 9, 2),
        ([7, 2], 7, 1),
        ([9], 1, 1),
        ([7, 7, 2, 2, 2], 14, 4),
    ],
)
def test_as_many_are_loaded_at_a_time_as_fit_of_the_smallest(
    weights: list[int], budget: int, count: int
) -> None:
    assert most_at_once(weights, budget) == count


@pytest.fixture
def shelf(model: Path, tmp_path: Path) -> Path:
    for name in "abc":
        shutil.copytree(model, tmp_path / "shelf" / name)
    return tmp_path / "shelf"


def budgets(folder: Path, **values: object) -> Budgets:
    settings = Settings(device="cpu", warm_up=False, models_dir=folder, **values)  # type: ignore[arg-type]
    return Budgets.of(settings, list_models(settings), CPU, torch.float32)


def test_what_is_for_all_models_is_divided_among_those_that_fit(shelf: Path) -> None:
    """Of three equal models two fit."""
    one = budgets(shelf, model_memory_gb=1).still_to_come / 2
    found = budgets(shelf, model_memory_gb=2.5 * one / 1e9, lora_memory_mb=64, controlnet_memory_mb=128)
    assert (found.loras, found.controls) == (32 * 2**20, 64 * 2**20)
    assert found.still_to_come == pytest.approx(1.5 * one, rel=1e-6)


def test_where_nothing_is_said_all_together_leave_room_for_drawings(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdworker.budgets.free_bytes", lambda _device: 10**9)
    found = budgets(shelf, model_memory_gb=0.4)
    assert found.models == 400_000_000
    assert found.loras is not None
    assert found.controls is not None
    assert found.still_to_come + 3 * (found.loras + found.controls) < 0.75 * 10**9


def test_one_model_has_it_all(model: Path) -> None:
    settings = Settings(model_dir=model, lora_memory_mb=64)
    assert Budgets.of(settings, list_models(settings), CPU, torch.float32) == Budgets(
        None, 0, 64 * 2**20, None
    )


def test_a_first_model_that_does_not_fit_stops_the_start(shelf: Path) -> None:
    with pytest.raises(SettingsError, match=r"MODEL_MEMORY_GB: is .*, and the first model, a, takes"):
        budgets(shelf, model_memory_gb=0.001)


async def test_a_workers_models_have_their_shares(shelf: Path) -> None:
    settings = Settings(
        device="cpu", warm_up=False, models_dir=shelf, lora_memory_mb=60, controlnet_memory_mb=90
    )
    worker = build_worker(settings)
    for name in "ab":
        async with worker.models.use(name) as model:
            assert model.adapters.budget_bytes == 20 * 2**20
            assert worker._control_nets(model)._budget_bytes == 30 * 2**20
    worker.models.close()
    worker.engine.close()
