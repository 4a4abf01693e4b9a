"""What the commands of all add-ons have in common: their arguments, and where the figures go."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from builder.emoji import pictures
from builder.emoji.budget import Budget
from builder.emoji.pictures import Emojis
from builder.emoji.trainer import Trainer


@dataclass(frozen=True)
class Given:
    """What was asked for."""

    work: Path
    model: Path
    out: Path
    emojis: Emojis
    trainer: Trainer
    measure_only: bool
    count: int


def parse(description: str | None, name: str, out: Path, minutes: float) -> Given:
    """The command line's arguments; `out` and `minutes` are what is usual for the add-on `name`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("build/emoji"), help="data and checkpoints")
    parser.add_argument("--data", type=Path, help="a data.npz made before; usual: the one in --work")
    parser.add_argument(
        "--model", type=Path, default=Path("models/emoji"), help="the model that it is added to"
    )
    parser.add_argument("--out", type=Path, default=out, help="where it is saved")
    parser.add_argument("--minutes", type=float, help=f"of training, all runs together; usual: {minutes}")
    parser.add_argument("--steps", type=int, help="of training, all runs together")
    parser.add_argument("--limit", type=int, help="only the first so many emoji: for a trial")
    parser.add_argument("--count", type=int, default=100, help="how many pictures to measure with")
    parser.add_argument("--measure", action="store_true", help="train nothing, measure what --out holds")
    given = parser.parse_args()
    emojis = pictures.load(given.data or given.work / "data.npz")
    usual = minutes if given.steps is None and given.minutes is None else given.minutes
    trainer = Trainer(name, given.work / "addons", Budget(given.steps, usual), torch.device("cpu"), ema=0.99)
    return Given(
        given.work,
        given.model,
        given.out,
        emojis.first(given.limit) if given.limit else emojis,
        trainer,
        given.measure,
        given.count,
    )


def write_figures(path: Path, name: str, figures: dict[str, Any]) -> None:
    """Print them, and keep them under `name` in `figures.json`, beside those of the add-on's neighbours."""
    print(json.dumps(figures, indent=2, ensure_ascii=False))
    kept = json.loads(path.read_text("utf-8")) if path.exists() else {}
    kept[name] = figures
    path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
