"""How fast a device multiplies at best: what its maker states, else what a large product of matrices shows."""

import time
from dataclasses import dataclass

import torch

__all__ = ["Peak", "find_peak"]

# Dense fp16 with fp32 accumulation on tensor cores, in TFLOPS, by the name that CUDA gives the device. From
# NVIDIA's data sheets; where these state the rate with sparsity, half of it. GeForce from the whitepapers of
# Ampere (GA102) and Ada.
_STATED_TFLOPS = {
    "NVIDIA H200": 989,
    "NVIDIA H100 80GB HBM3": 989,
    "NVIDIA H100 PCIe": 756,
    "NVIDIA H100 NVL": 835,
    "NVIDIA A100-SXM4-40GB": 312,
    "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA A100-PCIE-40GB": 312,
    "NVIDIA A100 80GB PCIe": 312,
    "NVIDIA L40S": 362,
    "NVIDIA L4": 121,
    "NVIDIA RTX A5000": 111,
    "NVIDIA GeForce RTX 4090": 165,
    "NVIDIA GeForce RTX 3090": 71,
}
_MATMUL_SIZE = {"cuda": 8192, "cpu": 1024}
_REPEATS = 5


@dataclass(frozen=True)
class Peak:
    """Floating-point operations a second, and where the figure is from."""

    source: str
    flops_per_s: float


def find_peak(device: torch.device, dtype: torch.dtype) -> Peak:
    """The device's peak in a precision."""
    if device.type == "cuda" and dtype in (torch.float16, torch.bfloat16):
        name = torch.cuda.get_device_name(device)
        stated = _STATED_TFLOPS.get(name)
        if stated is not None:
            return Peak(f"stated for {name}, {stated} TFLOPS", stated * 1e12)
    return _measure_matmul(device, dtype)


def _measure_matmul(device: torch.device, dtype: torch.dtype) -> Peak:
    """The best of a few products of two large square matrices, after one that is not counted."""
    size = _MATMUL_SIZE[device.type]
    # Noise, because a GPU draws less power for constant numbers and clocks higher than it can in earnest.
    matrix = torch.randn(size, size, device=device).to(dtype)
    best_s = float("inf")
    for number in range(_REPEATS + 1):
        began = time.perf_counter()
        matrix @ matrix
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number > 0:
            best_s = min(best_s, time.perf_counter() - began)
    flops_per_s = 2 * size**3 / best_s
    return Peak(f"measured matmul, {size}x{size}, {flops_per_s / 1e12:.3g} TFLOPS", flops_per_s)
