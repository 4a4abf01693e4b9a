"""The processes that `serve` started on a data folder, written down there, so that the next `serve` knows what
became of them.

A worker whose `serve` was killed is told to end by the kernel, but finishes its job first, as after Ctrl-C. So the
next `serve` finds each of them either gone, and its jobs can go back to the queue at once, or still at work.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["OwnWorkers", "Process"]

_FILE_NAME = "workers.json"
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Process:
    """A process that no other is taken for: numbers are used again, but not with the same start."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> "Process | None":
        """The process of this number, or None where there is none (any more)."""
        try:
            # The name in parentheses may hold anything; field 22 is when it began, in ticks since the boot.
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
            if fields[0] in "ZX":
                return None
            return cls(pid, f"{_BOOT.read_text().strip()} {fields[19]}")
        except FileNotFoundError:
            return None if _BOOT.exists() else cls._without_proc(pid)
        except (OSError, IndexError):
            return None

    @classmethod
    def _without_proc(cls, pid: int) -> "Process | None":
        """Where there is no /proc, a number has to do."""
        try:
            os.kill(pid, 0)
        except OSError:
            return None
        return cls(pid, "")

    @property
    def is_alive(self) -> bool:
        """Whether it is still there."""
        return Process.of(self.pid) == self


class OwnWorkers:
    """The workers of one data folder, by name. A file that cannot be read or written is as good as none."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE_NAME
        self._processes: dict[str, Process] = {}

    def earlier(self) -> dict[str, Process]:
        """What an earlier `serve` has left on record."""
        try:
            kept = json.loads(self._path.read_text())
            return {str(name): Process(int(pid), str(started)) for name, (pid, started) in kept.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def note(self, name: str, process: Process | None) -> None:
        """Note a worker's process, or that it is gone."""
        if process is None:
            self._processes.pop(name, None)
        else:
            self._processes[name] = process
        text = json.dumps({name: [each.pid, each.started] for name, each in self._processes.items()})
        try:
            new = self._path.with_suffix(".new")
            new.write_text(text)
            new.replace(self._path)
        except OSError:
            return  # a full disk: the next `serve` waits for the workers' time to be over
