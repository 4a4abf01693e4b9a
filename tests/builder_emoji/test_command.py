"""The one command, from a prepared data file to a model that plain diffusers loads."""

import json
from pathlib import Path

import numpy as np
import pytest
from builder.emoji import __main__ as command
from builder.emoji.pictures import Emojis
from diffusers import StableDiffusionPipeline


@pytest.fixture
def data(emojis: Emojis, tmp_path: Path) -> Path:
    path = tmp_path / "data.npz"
    tags = np.array([json.dumps(tags) for tags in emojis.tags])
    np.savez(path, pictures=emojis.pictures, names=np.array(emojis.names), tags=tags, groups=emojis.groups)
    return path


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> None:
    where = [
        "--work",
        str(folder / "work"),
        "--out",
        str(folder / "model"),
        "--data",
        str(folder / "data.npz"),
    ]
    monkeypatch.setattr(
        "sys.argv", ["builder.emoji", *where, "--device", "cpu", "--prompts", "0", *arguments]
    )
    command.main()


def test_trains_saves_and_goes_on_where_it_stopped(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = ("--limit", "2", "--autoencoder-steps", "1", "--diffusion-steps", "1")
    run(monkeypatch, tmp_path, *steps, "--pause-minutes", "0.0001")
    assert "paused in the autoencoder's training" in capsys.readouterr().out
    assert not (tmp_path / "model").exists()

    run(monkeypatch, tmp_path, *steps)
    assert "done" in capsys.readouterr().out
    assert {file.name for file in (tmp_path / "work").iterdir()} >= {
        "autoencoder",
        "lessons.pt",
        "diffusion.pt",
    }
    whole = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    assert whole.vae.config.scaling_factor == 0.18215
