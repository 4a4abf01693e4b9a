"""Single checkpoints in a real worker, beside models in folders: found, drawn with, told where bad."""

import asyncio
import base64
import logging
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sdworker import catalogue
from sdworker.catalogue import list_models
from sdworker.engine.model_config import ModelError
from sdworker.errors import UserError
from sdworker.settings import Settings
from sdworker.startup import build_worker
from sdworker.worker import Worker

pytestmark = pytest.mark.usefixtures("tiny_families")

JOB = {"prompt": "a red apple", "num_inference_steps": 2, "seed": 7, "width": 64, "height": 64}


def settings(**values: Any) -> Settings:
    return Settings(**{"device": "cpu", "warm_up": False, **values})


async def draw(worker: Worker, **fields: Any) -> np.ndarray:
    (output,) = await worker.run({"id": "job", "input": {**JOB, **fields}})
    return np.asarray(Image.open(BytesIO(base64.b64decode(output["image"]))), int)


@pytest.fixture
def shelf(model: Path, singles: Path, configs: Path, tmp_path: Path) -> Path:
    """The embedded model, two checkpoints, the same two as folders; a broken one, and what is no model."""
    folder = tmp_path / "shelf"
    shutil.copytree(singles, folder)
    shutil.copytree(model, folder / "emoji")
    shutil.copytree(configs / "stable-diffusion-xl", folder / "xl-folder")
    save_file({"lora_unet_x.lora_up.weight": torch.ones(1)}, folder / "style.safetensors")
    tensors = load_file(folder / "sd.safetensors")
    tensors["model.diffusion_model.out.2.bias"] *= float("nan")
    save_file(tensors, folder / "broken.safetensors")
    return folder


@pytest.fixture
def worker(shelf: Path) -> Iterator[Worker]:
    worker = build_worker(settings(models=(str(shelf / "emoji"),), models_dir=shelf))
    yield worker
    worker.models.close()
    worker.engine.close()


def test_they_are_listed_by_name_and_family_and_nothing_is_made_yet(
    shelf: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        listed = list_models(settings(models_dir=shelf))
    assert [one.served.name for one in listed] == ["broken", "emoji", "sd", "xl", "xl-folder"]
    by_name = {one.served.name: one for one in listed}
    assert by_name["xl"].checked.layout is by_name["xl-folder"].checked.layout
    assert by_name["xl"].served.size == by_name["xl-folder"].served.size
    assert by_name["xl"].checked.weights.keys() == by_name["xl-folder"].checked.weights.keys()
    assert by_name["xl"].place == shelf / "xl.safetensors"
    assert "not served: style.safetensors is a LoRA, not a model" in caplog.text
    assert not (shelf / ".converted").exists()


async def test_they_draw_what_their_folders_draw_and_a_broken_one_fails_its_own_jobs(
    worker: Worker, shelf: Path
) -> None:
    jobs = [draw(worker, model=name) for name in ("xl.safetensors", "broken", "sd", "emoji", "xl-folder")]
    xl, broken, sd, emoji, folder = await asyncio.gather(*jobs, return_exceptions=True)
    assert isinstance(broken, UserError)
    assert str(broken).startswith("model: broken cannot be loaded")
    assert not any(isinstance(one, BaseException) for one in (xl, sd, emoji, folder))
    assert isinstance(xl, np.ndarray)
    assert isinstance(folder, np.ndarray)
    assert np.abs(xl - folder).max() <= 1
    kept = sorted(one.name.rpartition("-")[0] for one in (shelf / ".converted").iterdir() if one.is_dir())
    assert kept == ["sd", "xl"]


async def test_one_that_vanishes_fails_its_jobs_until_it_is_back(worker: Worker, shelf: Path) -> None:
    file = shelf / "sd.safetensors"
    file.rename(shelf / "elsewhere")
    with pytest.raises(UserError, match="model: sd cannot be loaded"):
        await draw(worker, model="sd")
    await draw(worker)
    (shelf / "elsewhere").rename(file)
    await draw(worker, model="sd")


async def test_one_may_be_the_only_model(singles: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(singles / "xl.safetensors", tmp_path / "my model.safetensors"))
    worker = build_worker(settings(model_dir=file))
    await draw(worker, model="my model")
    assert worker.contract.served.names == ["my model"]
    worker.engine.close()


@pytest.mark.parametrize("name", ["model_dir", "models"])
def test_one_that_was_named_and_is_not_there_stops_the_start(tmp_path: Path, name: str) -> None:
    file = tmp_path / "gone.safetensors"
    with pytest.raises(ModelError, match=r"there is no checkpoint at .*gone.safetensors"):
        list_models(settings(**{name: file if name == "model_dir" else (str(file),)}))


class TestTheVolumesFolder:
    """`/runpod-volume/models`, where nothing else is told."""

    @pytest.fixture(autouse=True)
    def volume(self, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(catalogue, "_VOLUME_MODELS", shelf)
        return shelf

    def test_it_is_served(self) -> None:
        assert [one.served.name for one in list_models(settings())] == [
            "broken",
            "emoji",
            "sd",
            "xl",
            "xl-folder",
        ]

    def test_behind_the_images_own_model(
        self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        baked = Path(shutil.copytree(model, tmp_path / "baked"))
        monkeypatch.setattr(catalogue, "BAKED_MODEL", baked)
        names = [one.served.name for one in list_models(settings())]
        assert names == ["baked", "broken", "emoji", "sd", "xl", "xl-folder"]

    def test_not_where_a_model_is_named(self, shelf: Path) -> None:
        assert [one.served.name for one in list_models(settings(model_dir=shelf / "emoji"))] == ["emoji"]

    def test_an_empty_one_leaves_the_embedded_model(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "empty").mkdir()
        monkeypatch.setattr(catalogue, "_VOLUME_MODELS", tmp_path / "empty")
        assert [one.served.name for one in list_models(settings())] == ["emoji"]
