"""What the engine draws a second when nothing is in its way: no SDK, no image files, all drawings at once.

    python bench/steps/offline.py MODEL IMAGES STEPS[,STEPS…] …

Prints, as JSON, the images a second for each list of steps, which the images take in turn. A process of its own,
because two threads of one process that both run torch on a CPU slow each other down: nothing else here does.
"""

import sdworker.quick_start  # noqa: F401 - makes the imports below quick

# isort: split
import asyncio
import itertools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sdworker.engine.drawing import Drawing
from sdworker.engine.engine import Engine
from sdworker.settings import Settings
from sdworker.startup import build_worker


def main() -> None:
    """Measure each list of steps, after a warm-up."""
    model, images, *mixes = sys.argv[1:]
    worker = build_worker(Settings(model_dir=Path(model)))
    asyncio.run(worker.warm_up())
    engine = worker.engine
    asyncio.run(engine.calibrate())  # which the worker leaves to its first idle moment
    measured = {}
    for mix in mixes:
        steps = [int(number) for number in mix.split(",")]
        asyncio.run(_draw(engine, engine.batch_rows // 2, steps))
        began = time.perf_counter()
        asyncio.run(_draw(engine, int(images), steps))
        measured[mix] = int(images) / (time.perf_counter() - began)
    engine.close()
    print(json.dumps(measured))


async def _draw(engine: Engine, images: int, steps: Sequence[int]) -> None:
    width, height = engine.model.default_size
    await asyncio.gather(
        *(
            engine.draw(
                Drawing(
                    prompt=f"a red apple, number {number}",
                    negative_prompt="",
                    width=width,
                    height=height,
                    steps=of_this,
                    guidance=5.0,
                    sampler="DPM++ 2M Karras",
                    seeds=(number,),
                )
            )
            for number, of_this in zip(range(images), itertools.cycle(steps), strict=False)
        )
    )


if __name__ == "__main__":
    main()
