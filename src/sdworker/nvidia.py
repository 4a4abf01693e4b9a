"""Why there is no CUDA device to draw on: the driver that is here, the driver that is needed, in one sentence.

A worker that was meant for a GPU and finds none that it can use must not draw on the CPU, a hundred times
slower, and call that success. Nothing here imports torch: what it says of itself is handed in.
"""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

__all__ = ["DRIVER_NEEDED", "driver_version", "unbuilt_card", "why_no_device"]

DRIVER_NEEDED = {12: "525.60.13", 13: "580.65.06"}
"""CUDA's major version → the first driver that runs programs built for any of its minor versions.

Source: NVIDIA's CUDA Toolkit Release Notes, "Minimum Required Driver Version for CUDA Minor Version
Compatibility". Drivers run what was built for an older CUDA, so there is no last one.
"""

_PROC = Path("/proc/driver/nvidia/version")
_SMI_TIMEOUT_S = 10
_VERSION = r"(\d{3,4}\.\d+(?:\.\d+)?)"


def driver_version() -> str | None:
    """The NVIDIA driver's version, as `nvidia-smi` or else the kernel tells it; None where there is none."""
    return _from_smi() or _from_kernel()


def why_no_device(*, torch_version: str, cuda: str | None) -> str:
    """Why torch has no CUDA device, and what to do about it.

    Args:
        torch_version: `torch.__version__`.
        cuda: the CUDA that torch was built for, `torch.version.cuda`; None for a build without.
    """
    driver = driver_version()
    found = f"the NVIDIA driver here is {driver}" if driver else "no NVIDIA driver was found here"
    if cuda is None:
        needed = " and ".join(
            f"one for CUDA {major} needs driver {version} or later"
            for major, version in DRIVER_NEEDED.items()
        )
        return f"torch {torch_version} is built without CUDA, and {found}; of torch's builds {needed}"
    needed = DRIVER_NEEDED.get(int(cuda.partition(".")[0]), "of that CUDA's release or later")
    message = f"torch {torch_version} finds no CUDA device: {found}, and CUDA {cuda} needs {needed} or later"
    if driver and _numbers(driver) >= _numbers(needed):
        return f"{message}, so the driver is new enough: is a GPU handed to this container?"
    return message


def unbuilt_card(name: str, capability: tuple[int, int], architectures: Sequence[str]) -> str | None:
    """What to say where torch's kernels were not built for a card; None where they were.

    Compiled kernels run on cards of the same major capability and the same minor or a later one; `compute_…`
    kernels are compiled by the driver for any later card.

    Args:
        name: the card's.
        capability: its compute capability.
        architectures: `torch.cuda.get_arch_list()`, `["sm_80", "sm_90", "compute_90"]` say.
    """
    built = [
        (kind, int(number[:-1]), int(number[-1]))
        for kind, number in re.findall(r"\b(sm|compute)_(\d{2,})", " ".join(architectures))
    ]
    major, minor = capability
    for kind, built_major, built_minor in built:
        if kind == "compute" and (built_major, built_minor) <= capability:
            return None
        if built_major == major and built_minor <= minor:
            return None
    if not built:
        return None
    low, high = (f"{a}.{b}" for a, b in (min(b[1:] for b in built), max(b[1:] for b in built)))
    return (
        f"this torch has no kernels for the {name} (compute capability {major}.{minor}; it was built for {low} "
        f"to {high}): the image for CUDA 13 has them for Blackwell, the one for CUDA 12.6 for Volta and older"
    )


def _from_smi() -> str | None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            query, capture_output=True, text=True, errors="replace", timeout=_SMI_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    # A wrapper may answer with the table that it prints without arguments.
    pattern = rf"Driver Version:\s*{_VERSION}" if "Driver Version" in done.stdout else rf"^\s*{_VERSION}\s*$"
    match = re.search(pattern, done.stdout, re.MULTILINE)
    return match[1] if match else None


def _from_kernel() -> str | None:
    try:
        match = re.search(rf"Kernel Module(?: for \S+)?\s+{_VERSION}", _PROC.read_text("utf-8", "replace"))
    except OSError:
        return None
    return match[1] if match else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
