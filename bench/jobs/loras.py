"""What LoRAs cost: every caller its own, in shared forwards, against none and against loading one for each job.

Files of rank 16 as trainers write them (kohya's keys, the attentions' linear layers), with random weights.

1. Sixteen closed-loop callers, each with one of sixteen LoRAs, and the same without, in turn: jobs a second.
2. One forward of eight rows with eight LoRAs, and the same without, in turn.
3. diffusers' `load_lora_weights`, a picture, `unload_lora_weights`, one job after another, in its own process.
4. Two hundred LoRAs through a pool of sixteen: memory.
5. Beside others that draw: the steps until a job's first, without a LoRA, with one on the device, from its file.
"""

import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from bench.common import drawing_for, load_here
from bench.processes.own_process import OwnProcess
from bench.report import spread, table, write_json
from sdworker.engine.device import time_call
from sdworker.engine.drawing import Drawing
from sdworker.engine.engine import Engine
from sdworker.engine.lora import LoraUse, Target, read_lora
from sdworker.engine.lora.adapters import UNET
from sdworker.engine.networks.model import Model
from sdworker.engine.unet_input import UNetInput

__all__ = ["run"]

_CALLERS, _RANK, _STEPS, _JOBS_EACH = 16, 16, 8, 2
_NAIVE_JOBS, _POOL, _THROUGH = 6, 16, 200


def run(folder: Path, rounds: int) -> None:
    """Measure and report."""
    model = load_here(folder)
    with tempfile.TemporaryDirectory() as made:
        files = [Path(made) / f"{number}.safetensors" for number in range(_CALLERS)]
        for number, file in enumerate(files):
            _write(file, model.adapters.targets[UNET], number)
        loras = [LoraUse(i, read_lora(file, model.adapters.targets)) for i, file in enumerate(files)]
        forwards = _compare_forwards(model, loras, rounds)
        figures = asyncio.run(_serve(model, loras, rounds))
        with OwnProcess("bench.jobs.loras_naive") as naive:
            files_ = [str(file) for file in files[:_NAIVE_JOBS]]
            figures["naive_jobs_per_s"] = naive.call("jobs_per_s", str(folder), files_, _STEPS)
    figures |= {"forward_ratio": spread(forwards)}
    with_, without = figures["with_jobs_per_s"], figures["without_jobs_per_s"]
    ratios = [one / other for one, other in zip(with_, without, strict=True)]
    over_naive = statistics.median(with_) / figures["naive_jobs_per_s"]
    table(
        f"loras: {_CALLERS} callers with one of {_CALLERS} LoRAs of rank {_RANK} each, {_STEPS} steps, "
        f"{rounds} rounds",
        ("what", "median", "aim"),
        (
            ("jobs/s with, of those without", f"{statistics.median(ratios):.2f}", ">= 0.75"),
            ("jobs/s with, times the naive handler's", f"{over_naive:.1f}", ">= 5"),
            (
                "a forward of 8 rows with 8 LoRAs, times the plain one",
                f"{statistics.median(forwards):.2f}",
                "",
            ),
            ("steps to the first: without", figures["first_step"]["without"], ""),
            ("steps to the first: on the device", figures["first_step"]["on the device"], "+ 1"),
            ("steps to the first: from its file", figures["first_step"]["from its file"], ""),
            ("longest step of others meanwhile, times the median", figures["longest_step"], "< 2"),
            (f"{_THROUGH} LoRAs through {_POOL}: most held, of the budget", figures["pool_share"], "<= 1"),
            ("memory in the second half, MB more", figures["pool_growth_mb"], "0"),
        ),
    )
    print(write_json("loras", figures))


def _write(file: Path, targets: Mapping[str, Target], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, target in targets.items():
        if ".attn" in name and not target.convolves:
            layer = f"lora_unet_{name.replace('.', '_')}"
            tensors[f"{layer}.lora_down.weight"] = torch.randn(_RANK, target.inputs, generator=generator) / 50
            tensors[f"{layer}.lora_up.weight"] = torch.randn(target.outputs, _RANK, generator=generator) / 50
            tensors[f"{layer}.alpha"] = torch.tensor(float(_RANK))
    save_file(tensors, file)


def _compare_forwards(model: Model, loras: Sequence[LoraUse], rounds: int) -> list[float]:
    """Ratios of a forward with eight LoRAs to a plain one."""
    held = []
    for lora in loras[:8]:
        bringing = model.adapters.hold([lora])
        while True:
            try:
                next(bringing)
            except StopIteration as done:
                held.append(done.value)
                break
    with torch.inference_mode():
        plain = model.example_input(8)
        rows = [plain[i : i + 1] for i in range(8)]
        told = UNetInput.cat(
            [
                replace(row, conditioning=replace(row.conditioning, adapters=one.rows(1)))
                for row, one in zip(rows, held, strict=True)
            ]
        )
        ratios = []
        for _ in range(rounds):
            with_, without = (
                min(time_call(model.device, lambda given=given: model.denoise(given), 5))  # type: ignore[misc]
                for given in (told, plain)
            )
            ratios.append(with_ / without)
    for one in held:
        one.release()
    return ratios


async def _serve(model: Model, loras: Sequence[LoraUse], rounds: int) -> dict[str, Any]:
    engine = Engine(model, max_rows=2 * _CALLERS)
    try:
        with_, without = [], []
        for _ in range(rounds + 1):
            without.append(await _jobs_per_s(engine, [()] * _CALLERS))
            with_.append(await _jobs_per_s(engine, [(lora,) for lora in loras]))
        figures: dict[str, Any] = {"with_jobs_per_s": with_[1:], "without_jobs_per_s": without[1:]}
        figures |= await _first_steps(engine, loras)
        figures |= await _through_a_pool(engine, loras[0])
        return figures
    finally:
        engine.close()


def _drawing(engine: Engine, seed: int, loras: tuple[LoraUse, ...], steps: int = _STEPS) -> Drawing:
    return drawing_for(
        engine.model, prompt=f"a red apple, number {seed}", steps=steps, seeds=(seed,), loras=loras
    )


async def _jobs_per_s(engine: Engine, each: Sequence[tuple[LoraUse, ...]]) -> float:
    async def call(number: int, loras: tuple[LoraUse, ...]) -> None:
        for job in range(_JOBS_EACH):
            await engine.draw(_drawing(engine, 100 * number + job, loras))

    began = time.perf_counter()
    await asyncio.gather(*(call(number, loras) for number, loras in enumerate(each)))
    return len(each) * _JOBS_EACH / (time.perf_counter() - began)


async def _first_steps(engine: Engine, loras: Sequence[LoraUse]) -> dict[str, Any]:
    """While two others draw: how many of their steps pass until a job's first, and how long their steps are."""
    times: list[float] = []

    def stepped(_done: int, _all: int) -> None:
        times.append(time.perf_counter())

    others = [
        asyncio.create_task(engine.draw(_drawing(engine, seed, (), 400), stepped if seed == 0 else None))
        for seed in range(2)
    ]
    while len(times) < 10:  # noqa: ASYNC110 - the engine's thread counts
        await asyncio.sleep(0.02)
    fresh = replace(loras[0], key="fresh")
    waited: dict[str, int] = {}
    cases = (("without", ()), ("on the device", (loras[1],)), ("from its file", (fresh,)))
    for name, given in cases:
        before = len(times)
        first: list[int] = []
        drawing = _drawing(engine, 7, given, 2)
        await engine.draw(drawing, lambda *_, first=first: first.append(len(times)))
        waited[name] = first[0] - before
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    steps = [later - earlier for earlier, later in itertools.pairwise(times)]
    return {"first_step": waited, "longest_step": f"{max(steps) / statistics.median(steps):.1f}"}


async def _through_a_pool(engine: Engine, lora: LoraUse) -> dict[str, Any]:
    slots = engine.model.adapters._slots[UNET]
    await asyncio.wrap_future(engine.call(slots.forget_unused))
    slots.budget_bytes = _POOL * slots.bytes_of(lora.weights.parts[UNET])
    most, resident = 0, []
    for number in range(_THROUGH):
        await engine.draw(_drawing(engine, 1, (replace(lora, key=("through", number)),), 1))
        most = max(most, slots.used_bytes)
        resident.append(_resident_mb())
    half = _THROUGH // 2
    return {
        "pool_share": f"{most / slots.budget_bytes:.2f}",
        "pool_growth_mb": f"{max(resident[half:]) - max(resident[:half]):.0f}",
    }


def _resident_mb() -> float:
    with Path("/proc/self/statm").open("rb") as file:
        return int(file.read().split()[1]) * 4096 / 1e6
