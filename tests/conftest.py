"""What every room's tests share: the model of the repository, loaded once."""

import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# How long an example takes says nothing on a machine that others use.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# Two workers' worth of threads on two cores only slow each other down; and results must not depend on it.
torch.set_num_threads(int(os.environ.get("SDWORKER_TEST_THREADS", "2")))

# A script started in the background has SIGINT ignored, its children too, and then no Ctrl-C can be tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

MODEL = Path(__file__).resolve().parents[1] / "models" / "emoji"


@pytest.fixture(scope="session")
def model() -> Path:
    """The embedded model's folder."""
    return MODEL
