"""The loop both trainings share: rate, step, average, checkpoint, samples, until the budget is spent.

Everything random in a step comes from its number, so a training that was interrupted goes on exactly as if
it had not been. Checkpoints are written beside the old one and then moved over it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from torch import nn
from tqdm import tqdm

from builder.emoji.budget import Budget
from builder.emoji.optimizer import MuonAdamW
from builder.emoji.pictures import contact_sheet


@dataclass
class Trainer:
    """`name` is the training's, for its checkpoint and samples in `folder`."""

    name: str
    folder: Path
    budget: Budget
    device: torch.device
    ema: float = 0.999
    checkpoint_seconds: float = 120.0
    sample_seconds: float = 600.0
    stop_at: float | None = None
    """`time.monotonic()` at which to pause, for a machine that is to be had for minutes at a time."""

    @property
    def checkpoint(self) -> Path:
        """Where it goes on from."""
        return self.folder / f"{self.name}.pt"

    def run(
        self,
        modules: Sequence[nn.Module],
        optimizer: MuonAdamW,
        rate: float,
        loss_of_step: Callable[[int], torch.Tensor],
        draw_samples: Callable[[], np.ndarray] | None = None,
    ) -> bool:
        """Train `modules` on `loss_of_step(step)`, from the checkpoint if any; leave their average in them.

        Returns whether the budget was spent; False when it was paused before that.
        """
        parameters = [parameter for module in modules for parameter in module.parameters()]
        average = EMAModel(parameters, decay=self.ema, foreach=True)
        self.budget.start()
        self._restore(modules, optimizer, average)
        for module in modules:
            module.train()

        saved = sampled = time.monotonic()
        shown = 0.0
        with tqdm(
            total=self.budget.steps, initial=self.budget.done_steps, desc=self.name, mininterval=5
        ) as bar:
            while self.budget.progress < 1 and not self._is_time_to_pause():
                optimizer.set_rate(self.budget.rate(rate))
                optimizer.zero_grad(set_to_none=True)
                loss = loss_of_step(self.budget.done_steps)
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                average.step(parameters)
                self.budget.done_steps += 1
                bar.update()
                if self.budget.done_steps % 20 == 0:
                    shown = loss.item() if shown == 0 else 0.9 * shown + 0.1 * loss.item()
                    bar.set_postfix_str(f"loss {shown:.4f}, {self.budget.progress:.0%}")
                now = time.monotonic()
                if now - saved > self.checkpoint_seconds:
                    self._save(modules, optimizer, average)
                    saved = now
                if draw_samples and now - sampled > self.sample_seconds:
                    self._draw(modules, average, parameters, draw_samples)
                    sampled = now
        self._save(modules, optimizer, average)
        average.copy_to(parameters)
        for module in modules:
            module.eval()
        return self.budget.progress >= 1

    def _is_time_to_pause(self) -> bool:
        return self.stop_at is not None and time.monotonic() > self.stop_at

    def _restore(self, modules: Sequence[nn.Module], optimizer: MuonAdamW, average: EMAModel) -> None:
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        for module, weights in zip(modules, state["modules"], strict=True):
            module.load_state_dict(weights)
        optimizer.load_state_dict(state["optimizer"])
        average.load_state_dict(state["average"])
        average.to(self.device)
        self.budget.restore(state["budget"])

    def _save(self, modules: Sequence[nn.Module], optimizer: MuonAdamW, average: EMAModel) -> None:
        state: dict[str, Any] = {
            "modules": [module.state_dict() for module in modules],
            "optimizer": optimizer.state_dict(),
            "average": average.state_dict(),
            "budget": self.budget.state(),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        beside = self.checkpoint.with_suffix(".new")
        torch.save(state, beside)
        beside.replace(self.checkpoint)

    def _draw(
        self,
        modules: Sequence[nn.Module],
        average: EMAModel,
        parameters: list[nn.Parameter],
        draw_samples: Callable[[], np.ndarray],
    ) -> None:
        average.store(parameters)
        average.copy_to(parameters)
        for module in modules:
            module.eval()
        samples = self.folder / "samples"
        samples.mkdir(parents=True, exist_ok=True)
        contact_sheet(draw_samples(), columns=8).save(
            samples / f"{self.name}-{self.budget.done_steps:06}.png"
        )
        average.restore(parameters)
        for module in modules:
            module.train()
