"""A CPU's cores and memory are kept for the engine. Each in a process of its own: they are a process's affair."""

import os
import subprocess
import sys
import textwrap

import pytest


def run(code: str) -> list[int]:
    """What a fresh Python prints, as numbers."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return [int(number) for number in result.stdout.split()]


def test_only_a_thread_that_asks_for_them_computes_with_all_cores() -> None:
    """OpenMP's teams are counted by the kernel: a second team would be three more threads."""
    own, asked, again, threads = run(
        """
        import os, threading, torch
        from sdworker.engine.processor import reserve_cores, use_cores

        torch.set_num_threads(4)  # whatever this machine has
        cores = reserve_cores()
        a = torch.randn(2000, 2000)
        (a + a).sum()
        before = len(os.listdir("/proc/self/task"))

        def engine():
            use_cores(cores)
            other = threading.Thread(target=use_cores, args=(1,))
            other.start()
            other.join()
            (a + a).sum()
            print(before, torch.get_num_threads(), reserve_cores(), len(os.listdir("/proc/self/task")))

        thread = threading.Thread(target=engine)
        thread.start()
        thread.join()
        """
    )
    assert asked == again == 4
    assert threads == own + 1 + 3  # the engine's thread and the rest of its team


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's affair")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    """Pages that the system hands out anew are counted by the system."""
    code = """
        import resource, torch
        from sdworker.engine.processor import keep_freed_memory

        if {keep}:
            keep_freed_memory()
        for _ in range(20):
            torch.ones(10_000_000)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            torch.ones(10_000_000)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        """
    (kept,), (given_back,) = run(code.format(keep=True)), run(code.format(keep=False))
    assert kept < 0.05 * given_back


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's affair")
def test_what_has_gathered_is_given_back_and_little_is_not() -> None:
    code = """
        import os, torch
        from sdworker.engine import processor

        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20

        print(int(processor.give_back_memory(0)))  # nothing is kept yet
        processor.keep_freed_memory()
        before = resident()
        kept = [torch.ones(2**18 + 997 * i) for i in range(300)]  # of ever other sizes, a few of which stay
        kept = kept[::10]
        print(resident() - before, int(processor.give_back_memory(2**40)), int(processor.give_back_memory(2**26)))
        print(resident() - before, int(processor.give_back_memory(2**26)))
        """
    nothing, gathered, not_so_much, done, left, again = run(code)
    assert (nothing, not_so_much, done, again) == (0, 0, 1, 0)
    assert gathered > 300
    assert left < 150


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "10000 None"), ({"GOMP_SPINCOUNT": "5"}, "5 None"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None ACTIVE")],
)
@pytest.mark.parametrize("quick", ["0", "1"])
def test_how_threads_wait_is_settled_before_torch_is_loaded_unless_it_was_by_hand(
    given: dict[str, str], expected: str, quick: str
) -> None:
    code = """
        import os, sys
        from sdworker.waiting import wait_a_moment
        assert "torch" not in sys.modules
        import sdworker.quick_start
        print(os.environ.get("GOMP_SPINCOUNT"), os.environ.get("OMP_WAIT_POLICY"))
        """
    inherited = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**inherited, **given, "QUICK_START": quick},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.stdout.strip() == expected, result.stderr
