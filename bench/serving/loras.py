"""What LoRAs cost: every caller its own, in shared forwards, against none and against loading one for each job.

Files of rank 16 as trainers write them (kohya's keys, the attentions' linear layers), with random weights. In each
round, in turn:

1. Sixteen closed-loop callers through the SDK's production mode: without LoRAs; each with one of sixteen; and the
   same in the naive handler, which calls diffusers' `load_lora_weights`, draws, and calls `unload_lora_weights`.
2. The naive handler's function without the SDK, one job after another: its least time, since the SDK's loop looks
   for the next job only once a second when there is one slot.
3. What the device could do at most: its peak over the arithmetic of a job's forwards. Times the naive handler's
   jobs a second without the SDK, no way of serving can be quicker than that.
4. One forward of eight rows with eight LoRAs over a plain one.

Then, beside others that draw: what a job does to them that comes without a LoRA, with one on the device, or with
one from its file. And two hundred LoRAs through a pool of sixteen: memory.
"""

import asyncio
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from bench.processes.own_process import OwnProcess
from bench.report import spread, table, write_json
from bench.serving.callers import call, until_quiet
from bench.serving.contenders import NAIVE, OURS, contenders
from bench.standin import Platform
from bench.steps.flops import flops_per_row
from sdworker.model_place import own_size

__all__ = ["run"]

_CALLERS, _RANK, _STEPS = 16, 16, 8
_WINDOW_S, _LIMIT_S = 5.0, {OURS: 20.0, NAIVE: 8.0}
_BARE_JOBS, _COMING = 6, 5
_POOL, _THROUGH = 16, 200
_PLAIN, _BARE, _BOUND, _FORWARD = "plain", "naive, no SDK", "arithmetic", "forward"
_PIXELS_PER_LATENT = 8


def run(model: Path, rounds: int) -> None:
    """Measure and report."""
    model = model.resolve()
    with tempfile.TemporaryDirectory() as folder, OwnProcess("bench.jobs.loras_engine") as engine:
        names = _write_all(Path(folder), engine.call("layers", str(model), folder))
        figures = asyncio.run(_measure(model, folder, names, rounds, engine))
        figures["joining"] = engine.call("joining", str(model), folder, names[0], _COMING * rounds)
        figures["pool"] = engine.call("pool", str(model), folder, names[0], _POOL, _THROUGH)
    _report(figures)
    print(f"written to {write_json('loras', figures)}")


def _write_all(folder: Path, layers: Mapping[str, tuple[int, int]]) -> list[str]:
    names = [f"lora{number}" for number in range(_CALLERS)]
    for seed, name in enumerate(names):
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for layer, (inputs, outputs) in layers.items():
            kohya = f"lora_unet_{layer.replace('.', '_')}"
            tensors[f"{kohya}.lora_down.weight"] = torch.randn(_RANK, inputs, generator=generator) / 50
            tensors[f"{kohya}.lora_up.weight"] = torch.randn(outputs, _RANK, generator=generator) / 50
            tensors[f"{kohya}.alpha"] = torch.tensor(float(_RANK))
        save_file(tensors, folder / f"{name}.safetensors")
    return names


async def _measure(
    model: Path, folder: str, names: Sequence[str], rounds: int, engine: OwnProcess
) -> dict[str, Any]:
    measured: dict[str, list[float]] = {name: [] for name in (_PLAIN, OURS, NAIVE, _BARE, _BOUND, _FORWARD)}
    width, height = own_size(model)
    flops = flops_per_row(model, width // _PIXELS_PER_LATENT, height // _PIXELS_PER_LATENT)
    with OwnProcess("bench.jobs.loras_naive") as bare, OwnProcess("bench.steps.peak") as peak:
        device, dtype = _device()
        async with contenders(model, naive="bench/serving/naive_lora.py", LORA_DIR=folder) as platforms:
            for _ in range(rounds):
                for what, contender in ((_PLAIN, OURS), (OURS, OURS), (NAIVE, NAIVE)):
                    await until_quiet(platforms.values())
                    measured[what].append(
                        await _served(platforms[contender], [] if what == _PLAIN else names, contender)
                    )
                await until_quiet(platforms.values())
                ask = (str(model), folder, list(names[:_BARE_JOBS]), _STEPS)
                measured[_BARE].append(bare.call("jobs_per_s", *ask))
                peak_flops_per_s = peak.call("find_peak", device, dtype).flops_per_s
                measured[_BOUND].append(peak_flops_per_s / (flops * 2 * _STEPS))
                measured[_FORWARD].append(engine.call("forward_ratio", str(model), folder, names))
    return {
        "rounds": rounds,
        **{f"{what}_jobs_per_s": spread(measured[what]) for what in (_PLAIN, OURS, NAIVE, _BARE, _BOUND)},
        "forward_ratio": spread(measured[_FORWARD]),
        "with_over_without": _ratios(measured, OURS, _PLAIN),
        "over_naive": _ratios(measured, OURS, NAIVE),
        "over_bare": _ratios(measured, OURS, _BARE),
        "most_over_bare": _ratios(measured, _BOUND, _BARE),
    }


def _device() -> tuple[torch.device, torch.dtype]:
    cuda = torch.cuda.is_available()
    return torch.device("cuda" if cuda else "cpu"), torch.float16 if cuda else torch.float32


async def _served(platform: Platform, names: Sequence[str], contender: str) -> float:
    asked = itertools.cycle([{"loras": [{"name": name}]} for name in names] or [{}])
    stretch = await call(
        platform,
        _CALLERS,
        [_STEPS],
        window_s=_WINDOW_S,
        limit_s=_LIMIT_S[contender],
        more=partial(next, asked),
    )
    return stretch.jobs_per_s


def _ratios(measured: Mapping[str, Sequence[float]], one: str, other: str) -> dict[str, float]:
    """Round by round."""
    return spread([a / b for a, b in zip(measured[one], measured[other], strict=True)])


def _report(figures: Mapping[str, Any]) -> None:
    joining, pool = figures["joining"], figures["pool"]
    table(
        f"loras: {_CALLERS} callers with one of {_CALLERS} LoRAs of rank {_RANK} each, {_STEPS} steps, "
        f"{figures['rounds']} rounds",
        ("what", "median (least … most)", "aim"),
        (
            ("jobs/s with LoRAs", _range(figures[f"{OURS}_jobs_per_s"]), ""),
            ("of those without", _range(figures["with_over_without"]), ">= 0.75"),
            ("times the naive handler's", _range(figures["over_naive"]), ">= 5"),
            ("times the naive handler's without the SDK", _range(figures["over_bare"]), ""),
            ("what arithmetic allows, times the same", _range(figures["most_over_bare"]), ""),
            ("a forward of 8 rows with 8 LoRAs, times a plain one", _range(figures["forward_ratio"]), ""),
        ),
    )
    table(
        "a job that comes while two others draw, medians",
        ("its LoRA", "others' steps until its first", "their longest step, of usual", "lost, in steps"),
        [
            (how, f"{seen['steps']:.0f}", f"{seen['longest']:.2f}", f"{seen['lost']:.2f}")
            for how, seen in joining.items()
        ],
    )
    print(
        f"{_THROUGH} LoRAs through a pool of {_POOL}: at most {pool['share']:.2f} of the budget held; memory in "
        f"the second half {pool['growth_mb']:.0f} MB more"
    )


def _range(values: Mapping[str, float]) -> str:
    return f"{values['median']:.2f} ({values['min']:.2f} … {values['max']:.2f})"
