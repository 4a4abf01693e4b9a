"""The processes that a bench starts end with it, and so does what they started."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
# A script with a child of its own, which says who they are.
_SCRIPT = """
import os, subprocess, sys
child = subprocess.Popen(["sleep", "600"])
os.write(os.open(WHERE, os.O_WRONLY), f"{os.getpid()} {child.pid}\\n".encode())
child.wait()
"""
_BENCH = """
import asyncio, sys
from bench.processes.scripts import script_process
async def main():
    async with script_process(sys.argv[1]):
        await asyncio.sleep(600)
asyncio.run(main())
"""


def test_a_bench_that_is_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    reading, writing = os.pipe()
    script.write_text(f"WHERE = '/proc/{os.getpid()}/fd/{writing}'" + _SCRIPT)
    bench = subprocess.Popen([sys.executable, "-c", _BENCH, str(script)], cwd=_ROOT)
    pids = [int(pid) for pid in os.read(reading, 100).split()]
    watching = [os.pidfd_open(pid) for pid in pids]
    bench.send_signal(signal.SIGKILL)
    bench.wait()
    for descriptor in watching:
        ready, _, _ = select.select([descriptor], [], [], 30)
        assert ready, "it goes on"
