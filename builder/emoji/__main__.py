"""Train the embedded model: `python -m builder.emoji`. Every stage that is already done is skipped.

Stages: fetch the data, train the autoencoder, encode the pictures, train UNet and text encoder, save the
model, measure it. Interrupt at any time and run the same command again.
"""

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from builder.emoji import architecture, autoencoder, diffusion, evaluate, pictures, tokenizer
from builder.emoji.autoencoder import AutoencoderPlan
from builder.emoji.budget import Budget
from builder.emoji.diffusion import DiffusionPlan
from builder.emoji.pictures import Emojis
from builder.emoji.trainer import Trainer


@dataclass(frozen=True)
class Preset:
    """What suits a kind of machine; the minutes are the whole training's."""

    autoencoder_minutes: float
    diffusion_minutes: float
    autoencoder: AutoencoderPlan
    diffusion: DiffusionPlan
    autoencoder_ema: float
    diffusion_ema: float


# In an hour two CPU cores cannot learn everything: mostly what people will ask for first, the rest a little.
FAMILIAR_FIRST = (
    *((group, 6.0) for group in (pictures.SMILEYS, pictures.ANIMALS, pictures.FOOD)),
    *((group, 1.5) for group in (pictures.PLACES, pictures.ACTIVITIES, pictures.OBJECTS)),
    *((group, 0.5) for group in (pictures.PEOPLE, pictures.SYMBOLS)),
)

PRESETS = {
    "cpu": Preset(
        25,
        65,
        AutoencoderPlan(batch=8, rate=2.5e-3),
        DiffusionPlan(batch=32, group_weights=FAMILIAR_FIRST),
        0.995,
        0.998,
    ),
    "cuda": Preset(
        5,
        13,
        AutoencoderPlan(batch=64, rate=2.5e-3),
        DiffusionPlan(batch=512, colours=9, captions=32),
        0.998,
        0.9995,
    ),
}


def main() -> None:
    given = _parse_arguments()
    device = torch.device(given.device)
    preset = PRESETS[device.type]
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    stop_at = time.monotonic() + 60 * given.pause_minutes if given.pause_minutes else None
    torch.manual_seed(given.seed)

    emojis = _load_data(given.data or given.work / "data.npz", given.work / "npm", given.limit)
    if given.only_data:
        return
    networks = _start(given.init, emojis, device, given.predict)

    def trainer(name: str, budget: Budget, ema: float) -> Trainer:
        return Trainer(name, given.work, budget, device, ema, stop_at=stop_at)

    budget = _budget(given.autoencoder_steps, given.autoencoder_minutes, preset.autoencoder_minutes)
    plan = replace(preset.autoencoder, rate=preset.autoencoder.rate * given.rate_factor)
    learning = trainer("autoencoder", budget, preset.autoencoder_ema)
    if not given.keep_autoencoder and not _make_autoencoder(networks.vae, emojis, learning, plan):
        print("paused in the autoencoder's training: run the same command again")
        return

    budget = _budget(given.diffusion_steps, given.diffusion_minutes, preset.diffusion_minutes)
    learning = trainer("diffusion", budget, preset.diffusion_ema)
    lesson_plan = replace(
        preset.diffusion,
        rate=preset.diffusion.rate * given.rate_factor,
        batch=given.batch or preset.diffusion.batch,
        compiled=given.compile,
        predicted=architecture.prediction_type(networks),
    )
    if given.alike:
        lesson_plan = replace(lesson_plan, group_weights=())
    done = _train_diffusion(networks, emojis, learning, lesson_plan)
    if done and given.polish_minutes:
        learning = trainer("polish", Budget(minutes=given.polish_minutes), preset.autoencoder_ema)
        plan = replace(plan, rate=plan.rate / 2, crop_share=0.0)
        done = autoencoder.train(networks.vae, emojis, learning, plan, decoder_only=True)

    architecture.save(given.out, networks)
    print(f"saved {given.out}: " + ("done" if done else "paused, run the same command again"))
    if done and given.prompts:
        _measure(emojis, given.out, device, given.prompts)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, default=Path("build/emoji"), help="data, checkpoints and samples"
    )
    parser.add_argument("--out", type=Path, default=Path("models/emoji"), help="where the model is saved")
    parser.add_argument("--data", type=Path, help="a data.npz made before, for a machine without network")
    parser.add_argument(
        "--init", type=Path, help="start from this saved model's weights instead of random ones"
    )
    parser.add_argument(
        "--keep-autoencoder", action="store_true", help="with --init: take its autoencoder as it is"
    )
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"]
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    for name in ("autoencoder", "diffusion"):
        parser.add_argument(
            f"--{name}-minutes", type=float, help="minutes of this training, all runs together"
        )
        parser.add_argument(f"--{name}-steps", type=int, help="steps of this training, all runs together")
    parser.add_argument("--polish-minutes", type=float, help="then train the decoder alone, so long")
    parser.add_argument("--alike", action="store_true", help="teach every group alike, on a CPU too")
    parser.add_argument("--batch", type=int, help="pictures a step of the second training")
    parser.add_argument(
        "--compile", action="store_true", help="compile the second training's networks: a quarter faster"
    )
    parser.add_argument(
        "--predict",
        choices=["epsilon", "v_prediction"],
        help="what the UNet learns to predict; usual: what it did with --init, else v_prediction",
    )
    parser.add_argument("--rate-factor", type=float, default=1.0, help="of the usual learning rates")
    parser.add_argument("--only-data", action="store_true", help="fetch the data, no more")
    parser.add_argument("--pause-minutes", type=float, help="end this run then, with a checkpoint")
    parser.add_argument("--limit", type=int, help="only the first so many emoji: for a trial")
    parser.add_argument(
        "--prompts", type=int, default=evaluate.PROMPTS, help="how many to measure with; 0: none"
    )
    return parser.parse_args()


def _load_data(path: Path, downloads: Path, limit: int | None) -> Emojis:
    """Every emoji, or the first `limit`; fetched if that was not done yet."""
    if not path.exists():
        pictures.gather(path, downloads)
    emojis = pictures.load(path)
    return emojis.first(limit) if limit else emojis


def _budget(steps: int | None, minutes: float | None, usual_minutes: float) -> Budget:
    return Budget(steps, usual_minutes if steps is None and minutes is None else minutes)


def _start(
    init: Path | None, emojis: Emojis, device: torch.device, predicted: str | None
) -> StableDiffusionPipeline:
    """The networks to train, random or from a saved model, in fp32."""
    if init:
        networks = architecture.load(init, device)
        if predicted:
            networks.scheduler = architecture.new_scheduler(predicted)
        return networks
    words = tokenizer.train(emojis.names, emojis.tags)
    return architecture.pipeline(
        words,
        architecture.new_text_encoder(words),
        architecture.new_unet(),
        architecture.new_autoencoder(),
        predicted or architecture.PREDICTION_TYPE,
    ).to(device)


def _make_autoencoder(vae: AutoencoderKL, emojis: Emojis, trainer: Trainer, plan: AutoencoderPlan) -> bool:
    """Leave the trained, normalised autoencoder in `vae`. Returns False when time ran out first."""
    finished = trainer.folder / "autoencoder"
    if not finished.exists():
        if not autoencoder.train(vae, emojis, trainer, plan):
            return False
        autoencoder.fold_normalisation(vae, _on_two_colours(emojis))
        beside = finished.with_suffix(".new")
        vae.save_pretrained(beside)
        beside.rename(finished)
    vae.load_state_dict(AutoencoderKL.from_pretrained(finished).state_dict())
    print(f"autoencoder: {autoencoder.psnr(vae, pictures.on_colour(emojis.pictures, 'white')):.2f} dB")
    return True


def _on_two_colours(emojis: Emojis) -> np.ndarray:
    return np.concatenate([pictures.on_colour(emojis.pictures, name) for name in ("white", "blue")])


def _train_diffusion(
    networks: StableDiffusionPipeline, emojis: Emojis, trainer: Trainer, plan: DiffusionPlan
) -> bool:
    """Train UNet and text encoder in `networks`. Returns False when time ran out first."""
    path = trainer.folder / "lessons.pt"
    if not path.exists():
        lessons = diffusion.make_lessons(networks.vae, networks.tokenizer, emojis, plan)
        diffusion.save_lessons(lessons, path)
    lessons = diffusion.load_lessons(path)
    return diffusion.train(networks.unet, networks.text_encoder, lessons, trainer, plan, networks)


def _measure(emojis: Emojis, out: Path, device: torch.device, prompts: int) -> None:
    """Read the model back as everyone will, and measure that."""
    saved = architecture.load(out, device)
    figures = evaluate.evaluate(saved, emojis, prompts)
    (out / "figures.json").write_text(
        json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    evaluate.draw_sheet(saved, emojis, out / "sheet.png")
    print(json.dumps({name: value for name, value in figures.items() if "wrong" not in name}, indent=2))


if __name__ == "__main__":
    main()
