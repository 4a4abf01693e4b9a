"""Our side of `loras` where there is no platform: the worker as it starts, in a process of its own."""

# isort: split
import asyncio
import itertools
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from bench.processes.timed_worker import TimedModel, build_timed_worker
from sdworker.assets import Kind
from sdworker.engine.device import time_call
from sdworker.engine.lora import LoraUse, read_lora
from sdworker.engine.lora.adapters import UNET
from sdworker.engine.unet_input import UNetInput
from sdworker.worker import Worker

__all__ = ["forward_ratio", "joining", "layers", "pool"]

_ROWS, _FORWARDS = 8, 5
_MOST_ROWS = 16  # room for all that draw at once here, whatever is found to be worth it
_PATIENCE_S = 60.0
_OTHERS, _LONG = 2, 500
_BEFORE, _AFTER = 8, 3  # steps of others that are looked at


@cache
def _load(model: str, folder: str) -> tuple[Worker, TimedModel, asyncio.Runner]:
    worker, networks = build_timed_worker(model, lora_dir=Path(folder), max_rows=_MOST_ROWS)
    runner = asyncio.Runner()
    runner.run(worker.warm_up())
    runner.run(worker.engine.calibrate())  # or it would be done while something is measured
    return worker, networks, runner


def layers(model: str, folder: str) -> dict[str, tuple[int, int]]:
    """The attentions' linear layers, which LoRAs usually change: name → inputs, outputs."""
    _, networks, _ = _load(model, folder)
    targets = networks.adapters.targets[UNET]
    return {
        name: (one.inputs, one.outputs)
        for name, one in targets.items()
        if ".attn" in name and not one.convolves
    }


def forward_ratio(model: str, folder: str, names: Sequence[str]) -> float:
    """A forward of eight rows with a LoRA each, over a plain one, each the quickest of some."""
    worker, networks, _ = _load(model, folder)
    loras = [_use(worker, networks, name) for name in names[:_ROWS]]

    def compare() -> float:
        held = [_held(networks, lora) for lora in loras]
        plain = networks.example_input(_ROWS)
        told = UNetInput.cat(
            [
                replace(row, conditioning=replace(row.conditioning, adapters=one.rows(1)))
                for row, one in zip((plain[i : i + 1] for i in range(_ROWS)), held, strict=True)
            ]
        )
        with_, without = (
            min(time_call(networks.device, lambda given=given: networks.denoise(given), _FORWARDS))  # type: ignore[misc]
            for given in (told, plain)
        )
        for one in held:
            one.release()
        return with_ / without

    return worker.engine.call(compare).result()


def _use(worker: Worker, networks: TimedModel, name: str) -> LoraUse:
    path = worker.add_ons.find_here(Kind.LORA, name)
    return LoraUse(name, read_lora(path, networks.adapters.directory))


def _held(networks: TimedModel, lora: LoraUse) -> Any:
    bringing = networks.adapters.hold([lora])
    while True:
        try:
            next(bringing)
        except StopIteration as done:
            return done.value


def joining(model: str, folder: str, name: str, repeats: int) -> dict[str, dict[str, float]]:
    """While two others draw, another comes that is as long: without a LoRA, with one on the device, from its file.

    Returns:
        How it came → medians over the repeats: of others' `steps` until its first; and, until some steps later, of
        their `longest` step and of what they lost in all (`lost`), both in steps as they are before.
    """
    worker, _, runner = _load(model, folder)
    return runner.run(_join(worker, Path(folder), name, repeats))


async def _join(worker: Worker, folder: Path, name: str, repeats: int) -> dict[str, dict[str, float]]:
    stepped: list[float] = []
    others = [
        asyncio.create_task(_draw(worker, seed, stepped if seed == 0 else [])) for seed in range(_OTHERS)
    ]
    seen: dict[str, list[dict[str, float]]] = {"without": [], "on the device": [], "from its file": []}
    await _come(worker, stepped, name)
    for repeat, how in itertools.product(range(repeats), seen):
        named = {"without": None, "on the device": name, "from its file": f"{name}-{repeat}"}
        if how == "from its file":
            shutil.copy(folder / f"{name}.safetensors", folder / f"{name}-{repeat}.safetensors")
        seen[how].append(await _come(worker, stepped, named[how]))
        if any(one.done() for one in others):
            raise RuntimeError("the others were done before all had come")
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    return {
        how: {what: statistics.median(one[what] for one in times) for what in times[0]}
        for how, times in seen.items()
    }


async def _come(worker: Worker, stepped: list[float], lora: str | None) -> dict[str, float]:
    """What one that comes does to the others, whose steps are noted in `stepped`."""
    await _until(stepped, len(stepped) + 1 + _BEFORE)
    before, own = len(stepped), list[float]()
    comer = asyncio.create_task(_draw(worker, 7, own, lora))
    await _until(own, 1)
    waited = sum(moment < own[0] for moment in stepped[before:])
    await _until(stepped, len(stepped) + _AFTER)
    comer.cancel()
    await asyncio.gather(comer, return_exceptions=True)
    gaps = [later - earlier for earlier, later in itertools.pairwise(stepped)]
    usual = statistics.median(gaps[before - 1 - _BEFORE : before - 1])
    meanwhile = gaps[before - 1 : before + waited + _AFTER - 1]
    return {
        "steps": waited,
        "longest": max(meanwhile) / usual,
        "lost": sum(gap - usual for gap in meanwhile) / usual,
    }


async def _until(moments: list[float], count: int) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        while len(moments) < count:  # noqa: ASYNC110 - the engine's thread counts
            await asyncio.sleep(0.002)


async def _draw(worker: Worker, seed: int, stepped: list[float], lora: str | None = None) -> None:
    """One of many steps; their times go to `stepped`."""
    asked: dict[str, Any] = {
        "prompt": "a red apple",
        "num_inference_steps": _LONG,
        "seed": seed,
        "guidance_scale": 5.0,
        "loras": [] if lora is None else [{"name": lora}],
    }
    await worker.run({"id": f"job-{seed}", "input": asked}, lambda *_: stepped.append(time.perf_counter()))


def pool(model: str, folder: str, name: str, size: int, through: int) -> Mapping[str, float]:
    """Many LoRAs through a pool of a few, one after another: what is held at most, and what memory does."""
    worker, networks, _ = _load(model, folder)
    slots = networks.adapters._slots[UNET]
    lora = _use(worker, networks, name)

    def take_turns() -> Mapping[str, float]:
        slots.forget_unused()
        slots.budget_bytes = size * slots.bytes_of(lora.weights.parts[UNET])
        plain, most, resident = networks.example_input(2), 0, []
        for number in range(through):
            held = _held(networks, replace(lora, key=("through", number)))
            networks.denoise(replace(plain, conditioning=replace(plain.conditioning, adapters=held.rows(2))))
            held.release()
            most = max(most, slots.used_bytes)
            resident.append(_resident_mb())
        half = through // 2
        return {
            "share": most / slots.budget_bytes,
            "growth_mb": max(resident[half:]) - max(resident[:half]),
        }

    return worker.engine.call(torch.inference_mode()(take_turns)).result()


def _resident_mb() -> float:
    with Path("/proc/self/statm").open("rb") as file:
        return int(file.read().split()[1]) * 4096 / 1e6
