"""`python -m bench [NAME …]`: run the named benches, or all."""

import argparse
from collections.abc import Callable
from pathlib import Path

from bench.jobs import encode, fits, memory, single
from bench.random_model import find_model
from bench.serving import coldstart, controls, fair, loras, models, served
from bench.sizes import parse_rows, parse_sizes
from bench.steps import busy, finish, lengths, limit, means

_BENCHES: dict[str, Callable[[Path, int], None]] = {
    "served": served.run,
    "single": single.run,
    "fair": fair.run,
    "encode": encode.run,
    "coldstart": coldstart.run,
    "means": means.run,
    "busy": busy.run,
    "lengths": lengths.run,
    "loras": loras.run,
    "finish": finish.run,
    "models": models.run,
    "controls": controls.run,
    "fits": fits.run,
}
# These also take sizes and rows.
_GRIDS: dict[str, Callable[..., None]] = {"memory": memory.run, "limit": limit.run}


def main() -> None:
    names = [*_BENCHES, *_GRIDS]
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"benches to run, of {', '.join(names)}; none: all")
    parser.add_argument(
        "--model",
        type=Path,
        default=Path("models/emoji"),
        help="model folder, or random-sd15 (bench/random_model.py) (default: %(default)s)",
    )
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds (default: %(default)s)")
    parser.add_argument(
        "--sizes", type=parse_sizes, help="of pictures, 512x512,768x512 say, in memory and limit"
    )
    parser.add_argument(
        "--rows", type=parse_rows, help="of a forward, 2,8 say (an image has two), in memory and limit"
    )
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in names:
            parser.error(f"there is no bench {name!r}; there are {', '.join(names)}")
    model = find_model(arguments.model)
    for name in arguments.names or names:
        if name in _GRIDS:
            _GRIDS[name](model, arguments.rounds, arguments.sizes, arguments.rows)
        else:
            run: Callable[..., object] = _BENCHES[name]
            run(model, arguments.rounds)


if __name__ == "__main__":
    main()
