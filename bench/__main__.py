"""`python -m bench [NAME …]`: run the named benches, or all."""

import argparse
from pathlib import Path

from bench import coldstart, encode, fair, served, single

_BENCHES = {
    "single": single.run,
    "served": served.run,
    "fair": fair.run,
    "encode": encode.run,
    "coldstart": coldstart.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"benches to run, of {', '.join(_BENCHES)}; none: all")
    parser.add_argument(
        "--model", type=Path, default=Path("models/emoji"), help="model folder (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds (default: %(default)s)")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in _BENCHES:
            parser.error(f"there is no bench {name!r}; there are {', '.join(_BENCHES)}")
    for name in arguments.names or _BENCHES:
        _BENCHES[name](arguments.model, arguments.rounds)


if __name__ == "__main__":
    main()
