"""What this process and its decoders take, as the kernel counts it (Linux)."""

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Memory", "decoders", "peak_mib", "reset_peak"]


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident MiB of a process, now and at most."""

    resident_mib: float
    peak_mib: float


def decoders() -> dict[int, Memory]:
    """This process's decoders of pictures, by process id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if b"sdworker.decoder" not in (folder / "cmdline").read_bytes():
                continue
            status = (folder / "status").read_text()
            if _number(status, "PPid") == os.getpid():
                found[int(folder.name)] = _memory(status)
    return found


def peak_mib() -> float:
    """The most that this process and its decoders had, each since its start or `reset_peak`."""
    own = _memory(Path("/proc/self/status").read_text())
    return own.peak_mib + sum(memory.peak_mib for memory in decoders().values())


def reset_peak() -> None:
    """Count anew from now on."""
    for pid in [os.getpid(), *decoders()]:
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def _memory(status: str) -> Memory:
    return Memory(_number(status, "VmRSS") / 1024, _number(status, "VmHWM") / 1024)


def _number(status: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE)
    return int(found.group(1)) if found else 0
