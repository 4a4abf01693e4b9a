"""How a device's memory is divided where several models are served: among them, and what goes with each.

    models           MODEL_MEMORY_GB, or a share of the device
    LoRAs            LORA_MEMORY_MB, or an eighth of what the models leave, for all of them together
    ControlNets      CONTROLNET_MEMORY_MB, or a quarter of it, likewise

What is for all of them is divided by how many models are ever loaded at a time, so that it holds whichever those
are. With one model nothing is divided, and shares are taken of what is free once it is loaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sdworker.catalogue import ListedModel
from sdworker.engine.device import free_bytes
from sdworker.engine.networks.families import weights_bytes
from sdworker.settings import Settings, SettingsError

__all__ = ["CONTROLS_SHARE", "Budgets"]

CONTROLS_SHARE = 1 / 4
_LORAS_SHARE = 1 / 8
_CARD_SHARE = 0.6
_FREE_SHARE = 0.5


@dataclass(frozen=True)
class Budgets:
    """In bytes.

    Attributes:
        models: of the weights of all models that are loaded. None: there is one, and it takes what it takes.
        still_to_come: what those may take that are not loaded at the start.
        loras, controls: of each model's LoRAs on the device, and of its ControlNets. None: a share of what is free
            once it is loaded.
    """

    models: int | None
    still_to_come: int
    loras: int | None
    controls: int | None

    @classmethod
    def of(
        cls, settings: Settings, listed: Sequence[ListedModel], device: torch.device, dtype: torch.dtype
    ) -> "Budgets":
        """For models of which none is loaded yet.

        Raises:
            SettingsError: the first does not fit.
        """
        loras = _megabytes(settings.lora_memory_mb)
        controls = _megabytes(settings.controlnet_memory_mb)
        if len(listed) == 1:
            return cls(None, 0, loras, controls)
        weights = [weights_bytes(one.checked, dtype) for one in listed]
        models = _for_models(settings, device)
        if weights[0] > models:
            raise SettingsError(
                f"MODEL_MEMORY_GB: is {models / 1e9:.2g}, and the first model, {listed[0].served.name}, takes "
                f"{weights[0] / 1e9:.2g}"
            )
        spare = max(0, free_bytes(device) - min(models, sum(weights)))
        at_once = most_at_once(weights, models)
        return cls(
            models,
            min(models - weights[0], sum(weights[1:])),
            (int(_LORAS_SHARE * spare) if loras is None else loras) // at_once,
            (int(CONTROLS_SHARE * spare) if controls is None else controls) // at_once,
        )


def most_at_once(weights: Sequence[int], budget: int) -> int:
    """How many models fit into a budget, whichever they are: at most, and one at least."""
    taken = count = 0
    for one in sorted(weights):
        taken += one
        if taken > budget:
            break
        count += 1
    return max(1, count)


def _for_models(settings: Settings, device: torch.device) -> int:
    if settings.model_memory_gb is not None:
        return int(settings.model_memory_gb * 1e9)
    if device.type == "cuda":
        return int(_CARD_SHARE * torch.cuda.get_device_properties(device).total_memory)
    return int(_FREE_SHARE * free_bytes(device))


def _megabytes(setting: int | None) -> int | None:
    return None if setting is None else setting * 2**20
