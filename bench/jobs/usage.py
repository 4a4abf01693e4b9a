"""How much memory a process uses.

On CUDA the device's, as torch's allocator counts it; the context and the libraries' kernels take about half a GB
more. On a CPU its own resident memory, read from Linux' /proc.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ["Usage", "forget_peak", "peak_bytes", "used_bytes"]


@dataclass(frozen=True)
class Usage:
    """What a job used.

    Attributes:
        fits: whether every step was one forward over all rows, and every image was decoded.
        loaded_bytes: with the model loaded and nothing drawn yet.
        peak_bytes: the most while the job ran.
        reserved_bytes: on CUDA the most that the allocator held, unused pieces included; else None.
    """

    fits: bool
    loaded_bytes: int
    peak_bytes: int
    reserved_bytes: int | None


def used_bytes(device: torch.device) -> int:
    """Memory used now."""
    return torch.cuda.memory_allocated() if device.type == "cuda" else _resident_bytes("VmRSS")


def forget_peak(device: torch.device) -> None:
    """From now on only what comes counts for the peak."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM to the present


def peak_bytes(device: torch.device) -> tuple[int, int | None]:
    """Most bytes used, and on CUDA reserved, since the peak was forgotten."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return _resident_bytes("VmHWM"), None


def _resident_bytes(field: str) -> int:
    """VmRSS, the resident memory now, or VmHWM, its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith(field))
    return int(kilobytes) * 1024
