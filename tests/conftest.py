"""What every room's tests share: the model of the repository, and how tests share a machine."""

import ctypes
import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# How long an example takes says nothing on a machine that others use.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# Where tests run in several processes (`make test`), each has one thread, and so have the workers it starts: none
# waits for another that the system has put aside. Results must not depend on it.
if shared := "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ.get("SDWORKER_TEST_THREADS", "1" if shared else "2")))

# A script started in the background has SIGINT ignored, its children too, and then no Ctrl-C can be tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

MODEL = Path(__file__).resolve().parents[1] / "models" / "emoji"


def pytest_collection_finish() -> None:
    """What was imported stays, a million objects: collecting garbage is quick without them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def memory_given_back() -> Iterator[None]:
    """Models of a module's tests go with it. Workers keep what was freed (`KEEP_MEMORY`): here nobody needs it."""
    yield
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


@pytest.fixture(scope="session")
def model() -> Path:
    """The embedded model's folder."""
    return MODEL
