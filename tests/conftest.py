"""What every room's tests share: the model of the repository, loaded once."""

import os
from pathlib import Path

import pytest
import torch

# Two workers' worth of threads on two cores only slow each other down; and results must not depend on it.
torch.set_num_threads(int(os.environ.get("SDWORKER_TEST_THREADS", "2")))

MODEL = Path(__file__).resolve().parents[1] / "models" / "emoji"


@pytest.fixture(scope="session")
def model() -> Path:
    """The embedded model's folder."""
    return MODEL
