"""What others wait for while a job's pictures are decoded or enlarged; and decoding in strips against other ways.

A long job of one picture counts the time from each of its steps to the next: alone, while sixteen pictures that
have finished together are decoded, and while a picture is enlarged. Beside it stands the longest piece of that
work by itself: nobody may wait for longer than a step of all and a piece.

Then one large decode: whole, in strips, and in diffusers' tiles; how far apart the pictures are, and their time.
"""

import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common import load_here
from bench.report import spread, table, write_json
from sdworker.engine.chores import Chore
from sdworker.engine.drawing import Drawing
from sdworker.engine.engine import Engine
from sdworker.engine.networks import strips
from sdworker.engine.networks.model import Model
from sdworker.engine.upscaling import Upscaler

__all__ = ["measure_pauses", "run"]

_SIDE = 256
_TOGETHER = 16
_UPSCALER = Path("models/upscalers/emoji-x2.safetensors")
_LEVELS = 127.5


def run(folder: Path, rounds: int) -> None:
    """Measure and report."""
    model = load_here(folder)
    figures: dict[str, Any] = {}
    pauses = [asyncio.run(measure_pauses(model)) for _ in range(rounds)]
    rows = []
    for case in pauses[0]:
        longest = [one[case]["longest_pause_ms"] for one in pauses]
        steps = [one[case]["median_step_ms"] for one in pauses]
        piece = [one[case]["longest_piece_ms"] for one in pauses]
        figures[case] = {
            "longest_pause_ms": spread(longest), "median_step_ms": spread(steps), "longest_piece_ms": spread(piece)
        }  # fmt: skip
        rows.append((case, *(f"{statistics.median(values):.0f}" for values in (steps, longest, piece))))
    table("from a long job's step to its next, ms", ("beside it", "median", "longest", "longest piece"), rows)
    figures["decode"] = _compare_decodes(model)
    table(
        f"one decode of {4 * _SIDE}x{4 * _SIDE}",
        ("way", "seconds", "longest piece, s", "levels from the whole"),
        [(way, *(f"{value:.3g}" for value in told.values())) for way, told in figures["decode"].items()],
    )
    print(f"written to {write_json('finish', figures)}")


async def measure_pauses(model: Model, only: str = "") -> dict[str, dict[str, float]]:
    """From a long job's step to its next, beside each case of work.

    Args:
        only: cases that have this in their names.
    """
    engine = Engine(model, max_rows=2 + 2 * _TOGETHER)
    await engine.calibrate()
    upscaler = Upscaler.load(_UPSCALER, "emoji-x2", device=model.device)
    picture = np.random.default_rng(1).integers(0, 256, (2 * _SIDE, 2 * _SIDE, 3), dtype=np.uint8)

    async def nothing() -> None:
        await asyncio.sleep(2)

    async def many() -> None:
        await engine.draw(_drawing(steps=3, seeds=tuple(range(_TOGETHER))))

    async def enlarge() -> None:
        await engine.do([upscaler.chore(picture)])

    cases: dict[str, Callable[[], Awaitable[None]]] = {
        "nothing": nothing,
        f"{_TOGETHER} pictures of {_SIDE}x{_SIDE}, drawn and decoded": many,
        f"a picture of {2 * _SIDE}x{2 * _SIDE} enlarged": enlarge,
    }
    found = {case: await _pauses_beside(engine, work) for case, work in cases.items() if only in case}
    engine.close(finish=False)
    return found


async def _pauses_beside(engine: Engine, work: Callable[[], Awaitable[None]]) -> dict[str, float]:
    ends: list[float] = []
    pieces: list[float] = []
    do_piece = Chore.do_piece

    def timed(chore: Chore[Any], mates: Sequence[Chore[Any]] = ()) -> list[Chore[Any]]:
        began = time.perf_counter()
        done = do_piece(chore, mates)
        pieces.append(time.perf_counter() - began)
        return done

    Chore.do_piece = timed  # type: ignore[method-assign, assignment]
    long = asyncio.create_task(engine.draw(_drawing(steps=500), lambda *_: ends.append(time.perf_counter())))
    while len(ends) < 3:  # noqa: ASYNC110 - the engine tells nobody
        await asyncio.sleep(0.01)
    first = len(ends)
    await work()
    long.cancel()
    await asyncio.gather(long, return_exceptions=True)
    Chore.do_piece = do_piece  # type: ignore[method-assign]
    gaps = [(after - before) * 1000 for before, after in itertools.pairwise(ends[first - 1 :])]
    return {
        "median_step_ms": statistics.median(gaps),
        "longest_pause_ms": max(gaps),
        "longest_piece_ms": max(pieces, default=0.0) * 1000,
    }


def _drawing(**changes: Any) -> Drawing:
    return Drawing(
        **{
            "prompt": "a red apple",
            "negative_prompt": "",
            "width": _SIDE,
            "height": _SIDE,
            "guidance": 4.0,
            "sampler": "DDIM",
            "seeds": (7,),
            **changes,
        }
    )


@torch.inference_mode()
def _compare_decodes(model: Model) -> dict[str, dict[str, float]]:
    vae = model.autoencoder._vae
    side = 4 * _SIDE // model.autoencoder.pixels_per_latent
    picture = torch.nn.functional.interpolate(
        torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)).clamp(-1, 1), size=4 * _SIDE
    ).to(model.device, model.dtype)
    latents = vae.encode(picture).latent_dist.mode()
    assert latents.shape[2] == side

    def whole() -> tuple[torch.Tensor, float]:
        began = time.perf_counter()
        return vae.decode(latents).sample, time.perf_counter() - began

    def cut() -> tuple[torch.Tensor, float]:
        longest, pieces = 0.0, strips.decode(vae, latents, model.autoencoder._budget(0))
        while True:
            began = time.perf_counter()
            try:
                next(pieces)
            except StopIteration as end:
                return end.value, longest
            longest = max(longest, time.perf_counter() - began)

    def tiled() -> tuple[torch.Tensor, float]:
        vae.enable_tiling()
        vae.tile_latent_min_size = 64
        vae.tile_sample_min_size = 64 * model.autoencoder.pixels_per_latent
        try:
            return vae.decode(latents).sample, float("nan")
        finally:
            vae.disable_tiling()

    reference, _ = whole()
    found = {}
    for way, decode in {"whole": whole, "strips": cut, "diffusers' tiles": tiled}.items():
        began = time.perf_counter()
        decoded, longest = decode()
        took = time.perf_counter() - began
        apart = float((decoded.clamp(-1, 1) - reference.clamp(-1, 1)).abs().max()) * _LEVELS
        found[way] = {"seconds": took, "longest_piece_s": longest, "levels": apart}
    return found
