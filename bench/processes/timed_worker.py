"""The worker as `build_worker` makes it, with a model that notes when the UNet ran."""

import logging
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from bench.steps.forwards import Forward, instant
from sdworker import startup
from sdworker.engine.model_files import ModelFolder
from sdworker.engine.networks.families.stable_diffusion import StableDiffusion
from sdworker.engine.networks.model import Loading
from sdworker.engine.unet_input import UNetInput
from sdworker.settings import Settings
from sdworker.worker import Worker

__all__ = ["TimedModel", "build_timed_worker"]


class TimedModel(StableDiffusion):
    """The real model; `forwards` lists every UNet forward that succeeded."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.forwards: list[Forward] = []

    def denoise(self, inputs: UNetInput) -> torch.Tensor:
        began = instant(self.device)
        predicted = super().denoise(inputs)
        self.forwards.append(Forward(inputs.rows, began, instant(self.device)))
        return predicted

    def settle(self) -> None:
        """Wait for the device to finish what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def build_timed_worker(
    model: str, kind: type[TimedModel] = TimedModel, **settings: Any
) -> tuple[Worker, TimedModel]:
    """A worker for the model's folder and its model; `settings` go before the environment's.

    Raises:
        ModelError, SettingsError: as from `build_worker`.
    """
    logging.getLogger("sdworker").setLevel(logging.WARNING)  # a line a job would tear the tables apart

    def load_checked(checked: ModelFolder, loading: Loading) -> TimedModel:
        return kind.load(checked, loading)

    with patch.object(startup, "load_checked", load_checked):
        worker = startup.build_worker(Settings(model_dir=Path(model), **settings))
    timed = worker.engine.model
    assert isinstance(timed, TimedModel)
    return worker, timed
