"""The worker as `build_worker` makes it, with networks that note when the UNet ran."""

import logging
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from bench.forwards import Forward, instant
from sdworker import startup
from sdworker.engine.networks import Networks
from sdworker.engine.unet_input import UNetInput
from sdworker.settings import Settings
from sdworker.worker import Worker

__all__ = ["TimedNetworks", "build_timed_worker"]


class TimedNetworks(Networks):
    """The real networks; `forwards` lists every UNet forward that succeeded."""

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
    model: str, kind: type[TimedNetworks] = TimedNetworks, **settings: Any
) -> tuple[Worker, TimedNetworks]:
    """A worker for the model's folder and its networks; `settings` go before the environment's.

    Raises:
        ModelError, SettingsError: as from `build_worker`.
    """
    logging.getLogger("sdworker").setLevel(logging.WARNING)  # a line a job would tear the tables apart
    with patch.object(startup, "Networks", kind):
        worker = startup.build_worker(Settings(model_dir=Path(model), **settings))
    networks = worker.engine.networks
    assert isinstance(networks, TimedNetworks)
    return worker, networks
