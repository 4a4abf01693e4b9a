"""The decoder processes: whatever becomes of one, its picture gets an error and the next one is read."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdworker.decoder.errors import PictureError
from sdworker.pictures import decoders
from sdworker.pictures.decoders import Decoders

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells what is asked here")


def png(size: tuple[int, int] = (8, 6)) -> bytes:
    file = BytesIO()
    Image.new("RGB", size, (200, 100, 50)).save(file, "PNG")
    return file.getvalue()


async def read(by: Decoders, data: bytes = b"", fit: decoders.Fit = lambda size: size) -> np.ndarray:
    return await by.decode(data or png(), "RGB", 10**7, fit)


def children(parent: int) -> set[int]:
    """The decoders that this process has started."""
    return {
        int(pid)
        for file in Path(f"/proc/{parent}/task").glob("*/children")
        for pid in file.read_text().split()
        if b"sdworker.decoder" in Path(f"/proc/{pid}/cmdline").read_bytes()
    }


def process_of(by: Decoders) -> int:
    """Its decoder of small pictures."""
    (pid,) = children(os.getpid()) - _others
    return pid


def has_ended(pid: int) -> bool:
    file = Path(f"/proc/{pid}/stat")
    return not file.exists() or file.read_text().split()[2] == "Z"


_others: set[int] = set()


@pytest.fixture
def by(monkeypatch: pytest.MonkeyPatch) -> Decoders:
    """Decoders of the test's own, one for small pictures."""
    _others.update(children(os.getpid()))
    monkeypatch.setattr(decoders, "_SMALL_AT_ONCE", 1)
    return Decoders()


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(180):
        while not condition():  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.01)


async def test_none_is_started_before_the_first_picture_and_it_serves_the_next_ones(by: Decoders) -> None:
    with pytest.raises(ValueError, match="not enough values"):
        process_of(by)
    await read(by)
    first = process_of(by)
    await read(by)
    assert process_of(by) == first


async def test_what_the_asker_raises_about_the_size_comes_out_and_the_decoder_stays(by: Decoders) -> None:
    def refuse(size: tuple[int, int]) -> tuple[int, int]:
        assert size == (8, 6)
        raise KeyError("no such size")

    with pytest.raises(KeyError, match="no such size"):
        await read(by, fit=refuse)
    first = process_of(by)
    assert (await read(by)).shape == (6, 8, 3)
    assert process_of(by) == first


async def test_one_that_was_killed_while_idle_is_replaced_unnoticed(by: Decoders) -> None:
    await read(by)
    pid = process_of(by)
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: has_ended(pid))
    assert (await read(by)).shape == (6, 8, 3)


async def test_one_that_is_killed_over_a_picture_costs_only_that_picture(by: Decoders) -> None:
    await read(by)

    def kill(size: tuple[int, int]) -> tuple[int, int]:
        os.kill(process_of(by), signal.SIGKILL)
        return size

    with pytest.raises(PictureError, match="its decoder broke down over it"):
        await read(by, fit=kill)
    assert (await read(by)).shape == (6, 8, 3)


async def test_one_that_hangs_is_ended_at_its_deadline(monkeypatch: pytest.MonkeyPatch, by: Decoders) -> None:
    await read(by)
    monkeypatch.setattr(by._small, "_deadline_s", 0.5)
    os.kill(process_of(by), signal.SIGSTOP)
    with pytest.raises(PictureError, match="more time to decode than one of its size should"):
        await read(by)
    monkeypatch.setattr(by._small, "_deadline_s", 20.0)
    assert (await read(by)).shape == (6, 8, 3)


async def test_what_waits_too_long_or_is_too_much_together_is_refused(
    monkeypatch: pytest.MonkeyPatch, by: Decoders
) -> None:
    go, reached = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(size: tuple[int, int]) -> tuple[int, int]:
        loop.call_soon_threadsafe(reached.set)
        asyncio.run_coroutine_threadsafe(go.wait(), loop).result()
        return size

    held = asyncio.create_task(read(by, fit=hold))
    await reached.wait()
    monkeypatch.setattr(decoders, "_LONGEST_WAIT_S", 0.0)
    late = asyncio.create_task(read(by))
    await asyncio.sleep(0)  # it is in line
    monkeypatch.setattr(decoders, "_MOST_WAITING_BYTES", 2 * len(png()))
    with pytest.raises(PictureError, match="too many pictures wait"):
        await read(by)
    go.set()
    with pytest.raises(PictureError, match="too many pictures wait"):
        await late
    monkeypatch.setattr(decoders, "_LONGEST_WAIT_S", 60.0)
    assert (await held).shape == (await read(by)).shape == (6, 8, 3)


async def test_small_pictures_do_not_wait_for_large_ones(by: Decoders) -> None:
    go, reached = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(size: tuple[int, int]) -> tuple[int, int]:
        loop.call_soon_threadsafe(reached.set)
        asyncio.run_coroutine_threadsafe(go.wait(), loop).result()
        return (8, 8)

    large = [asyncio.create_task(read(by, png((2500, 2000)), hold)) for _ in range(4)]
    await reached.wait()
    for _ in range(3):
        assert (await read(by)).shape == (6, 8, 3)
    assert not any(task.done() for task in large)
    go.set()
    assert [one.shape for one in await asyncio.gather(*large)] == [(8, 8, 3)] * 4


def test_it_is_told_no_secret_and_may_write_no_file(by: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKET_SECRET_ACCESS_KEY", "hush")
    asyncio.run(read(by))
    pid = process_of(by)
    assert b"hush" not in Path(f"/proc/{pid}/environ").read_bytes()
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert "Max file size             0" in limits


async def test_a_signal_to_the_whole_group_leaves_the_decoder_to_the_jobs_in_progress(by: Decoders) -> None:
    await read(by)
    first = process_of(by)
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(first, number)
    assert (await read(by)).shape == (6, 8, 3)
    assert process_of(by) == first


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_the_worker_however_that_ends(number: int) -> None:
    code = """
        import asyncio, signal, sys
        from sdworker.pictures.decoders import Decoders

        async def main():
            def told(size):
                print("reached", flush=True)
                asyncio.run_coroutine_threadsafe(asyncio.Event().wait(), loop).result()
            loop = asyncio.get_running_loop()
            await Decoders().decode(sys.stdin.buffer.read(), "RGB", 10**6, told)

        asyncio.run(main())
        """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as worker:
        assert worker.stdin
        assert worker.stdout
        worker.stdin.write(png())
        worker.stdin.close()
        assert worker.stdout.readline() == b"reached\n"
        (pid,) = children(worker.pid)
        worker.send_signal(number)
    end = time.monotonic() + 60
    while not has_ended(pid):
        assert time.monotonic() < end
        time.sleep(0.01)
