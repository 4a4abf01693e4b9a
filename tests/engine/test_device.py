"""Python is ahead of the device by a step, not by a drawing; tried with a device whose clock the test winds."""

import torch

from sdworker.engine.device import Pace, fetch, mark, send

CPU = torch.device("cpu")


class WoundDevice:
    """Finishes what was queued when somebody waits for it.

    Attributes:
        queued, done: how many steps.
    """

    def __init__(self) -> None:
        self.queued = self.done = 0

    def mark(self) -> "WoundMark":
        return WoundMark(self, self.queued)


class WoundMark:
    def __init__(self, device: WoundDevice, place: int) -> None:
        self._device = device
        self._place = place

    def query(self) -> bool:
        return self._device.done >= self._place

    def synchronize(self) -> None:
        self._device.done = max(self._device.done, self._place)


def test_one_step_is_queued_behind_the_one_at_work_and_no_more() -> None:
    device = WoundDevice()
    pace = Pace(device.mark)
    behind = []
    for _ in range(5):
        device.queued += 1
        pace.step_queued()
        behind.append(device.queued - device.done)
    assert behind == [1, 1, 1, 1, 1]


def test_how_far_ahead_can_be_said() -> None:
    device = WoundDevice()
    pace = Pace(device.mark, ahead=3)
    for _ in range(10):
        device.queued += 1
        pace.step_queued()
    assert device.queued - device.done == 3


def test_on_a_cpu_nothing_is_ever_on_its_way() -> None:
    tensor = torch.arange(6).view(2, 3)
    assert torch.equal(fetch(send(tensor, CPU)), tensor)
    assert mark(CPU).query()
