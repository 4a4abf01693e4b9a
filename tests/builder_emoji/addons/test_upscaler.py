"""The upscaler in the repository, as plain spandrel sees it; and its training."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from builder.emoji import evaluate
from builder.emoji.addons import upscaler
from builder.emoji.budget import Budget
from builder.emoji.trainer import Trainer
from PIL import Image, ImageDraw
from torch import nn

FILE = Path(__file__).parents[3] / "models" / "upscalers" / "emoji-x2.safetensors"


@pytest.fixture(scope="module")
def large() -> np.ndarray:
    """Four shapes that training never saw, smooth at their edges: RGB `[4, 256, 256, 3]`."""
    shapes = []
    for number, colour in enumerate([(220, 40, 40), (40, 60, 220), (40, 160, 60), (250, 200, 30)]):
        picture = Image.new("RGB", (1024, 1024), "white")
        pen = ImageDraw.Draw(picture)
        pen.regular_polygon((500, 520, 380), 3 + number, rotation=17 * number, fill=colour)
        pen.ellipse((400, 400, 620, 620), fill="white", outline="black", width=24)
        shapes.append(np.asarray(picture.resize((256, 256), Image.Resampling.LANCZOS)))
    return np.stack(shapes)


@pytest.fixture(scope="module")
def network(spandrel: ModuleType) -> nn.Module:
    descriptor = spandrel.ModelLoader().load_from_file(FILE)
    assert (descriptor.architecture.id, descriptor.scale) == ("Compact", 2)
    assert (descriptor.input_channels, descriptor.output_channels) == (3, 3)
    loaded: nn.Module = descriptor.model.float().eval()
    return loaded


def test_is_at_most_a_megabyte() -> None:
    assert FILE.stat().st_size <= 1_000_000


def test_spandrel_reads_from_it_the_network_that_was_trained(network: nn.Module, large: np.ndarray) -> None:
    small = upscaler.shrink(large)
    assert (upscaler.enlarge(network, small) == upscaler.enlarge(upscaler.load(FILE), small)).all()


def test_is_better_than_bicubic(network: nn.Module, large: np.ndarray) -> None:
    small = upscaler.shrink(large)
    plain = evaluate.picture_psnr(upscaler.bicubic(small), large)
    assert evaluate.picture_psnr(upscaler.enlarge(network, small), large) >= plain + 1.5


def test_takes_any_size(network: nn.Module) -> None:
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 40, 72)).shape == (1, 3, 80, 144)


def test_what_training_changes_is_saved_and_read_back(tmp_path: Path, large: np.ndarray) -> None:
    torch.manual_seed(0)
    opaque = np.concatenate([large, np.full_like(large[..., :1], 255)], axis=3)
    network = upscaler.Compact()
    trainer = Trainer("upscaler", tmp_path, Budget(steps=2), torch.device("cpu"), ema=0.5)
    assert upscaler.train(network, opaque, trainer)
    last = network.body[-1]
    assert isinstance(last, nn.Conv2d)
    assert last.weight.any(), "the last layer starts as zeros"
    upscaler.save(tmp_path / "x2.safetensors", network)
    read = upscaler.load(tmp_path / "x2.safetensors")
    small = upscaler.shrink(large)
    assert abs(upscaler.enlarge(read, small).astype(int) - upscaler.enlarge(network, small)).max() <= 1
