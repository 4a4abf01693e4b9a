"""What waiting costs a CPU's threads: on quiet cores, and beside a neighbour that keeps each core busy.

OpenMP's threads wait for one another some hundred times a forward. While they spin, the processor is theirs; where
another program wants it too, a thread spins for one that the system has put aside, and both are late. The worker
is built as in production, once for each way of waiting, in processes that stay; a round asks each in turn for a
job of one image and for one of four, so that what slows the machine for a while slows all of them. First all
rounds on quiet cores, then some beside neighbours.

Two questions are answered, each with its aim: what does the worker as it is lose on quiet cores, against all
threads that wait as libgomp does by itself; and how many times its own quiet time does a step take in the crowd.
A round's figure is its whole time, with the steps in which other numbers of threads are tried; the median of the
rounds counts.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from bench.report import ratio_table, spread, table, write_json

__all__ = ["run"]

_ROOT = Path(__file__).resolve().parents[2]
_LIBGOMP = "as libgomp waits by itself"
_AS_IT_IS = "the worker as it is"
# Way → its environment. The first is what the others are compared with.
_WAYS: dict[str, dict[str, str]] = {
    _LIBGOMP: {"GOMP_SPINCOUNT": "300000", "FEWER_THREADS": "0"},
    _AS_IT_IS: {},
    "FEWER_THREADS=0": {"FEWER_THREADS": "0"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}
_INHERITED_NOT = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "FEWER_THREADS")

_ROWS = (2, 8)
# Of a job; and after how many seconds it is stopped, which only in a crowd happens.
_STEPS, _MOST_S = 16, 1.5
_QUIET_ROUNDS_PER_ROUND = 3

# A step on quiet cores, to one of the first way; a step in the crowd, to one of the same worker's on quiet cores.
_AIMS = {"quiet": 1.03, "busy": 2.5}

_SPIN = "import os, sys, time\nos.sched_setaffinity(0, {int(sys.argv[1])})\nend = time.monotonic() + 600\n"
_SPIN += "while time.monotonic() < end and os.getppid() == int(sys.argv[2]): pass"


def run(model: Path, rounds: int, ways: Mapping[str, dict[str, str]] = _WAYS) -> None:
    """Measure and report. On a GPU nothing of it matters, and nothing is measured."""
    if torch.cuda.is_available():
        print("busy: only CPUs are measured")
        return
    with ExitStack() as stack:
        contenders = {way: stack.enter_context(_Contender(model, env)) for way, env in ways.items()}
        for contender in contenders.values():  # what comes first makes threads and memory; and finds its feet
            contender.step_ms(_ROWS[0])
        quiet = [_round(contenders) for _ in range(_QUIET_ROUNDS_PER_ROUND * rounds)]
        with _neighbours():
            busy = [_round(contenders) for _ in range(rounds)]
    figures = {way: _figures(way, next(iter(ways)), quiet, busy) for way in ways}
    ratio_table(
        f"busy: milliseconds of a step, median of {len(quiet)} quiet rounds and {rounds} busy ones, and the "
        f"ratio: quiet to {next(iter(ways))}, busy to the same way's own on quiet cores",
        "way of waiting",
        figures,
    )
    judged = {way: _judged(figures[way]) for way in figures if way == _AS_IT_IS}
    for way, verdicts in judged.items():
        table(f"busy: {way}, against what is aimed at", ("step", "times", "at most", ""), verdicts)
    print(f"written to {write_json('busy', figures)}")


Round = dict[str, dict[int, float]]
"""Way → rows → milliseconds of a step."""


def _round(contenders: "Mapping[str, _Contender]") -> Round:
    """Each in turn, so that they are close together for the same number of rows."""
    measured: Round = {way: {} for way in contenders}
    for rows in _ROWS:
        for way, contender in contenders.items():
            measured[way][rows] = contender.step_ms(rows)
    return measured


def _figures(way: str, first: str, quiet: list[Round], busy: list[Round]) -> dict[str, Any]:
    """What was timed → milliseconds and ratios, each a `spread`."""
    figures: dict[str, Any] = {}
    for rows in _ROWS:
        ratios = [one[way][rows] / one[first][rows] for one in quiet]
        figures[f"{rows} rows, quiet"] = {
            "ms": spread([one[way][rows] for one in quiet]),
            "ratio": spread(ratios),
        }
    for rows in _ROWS:
        alone = statistics.median(one[way][rows] for one in quiet)
        crowded = [one[way][rows] for one in busy]
        figures[f"{rows} rows, busy"] = {
            "ms": spread(crowded),
            "ratio": spread([ms / alone for ms in crowded]),
        }
    return figures


def _judged(figures: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rows of a table: what was timed, its ratio, the aim, and whether it is met."""
    rows = []
    for what, of in figures.items():
        aim, ratio = _AIMS[what.rpartition(" ")[2]], of["ratio"]["median"]
        rows.append((what, f"{ratio:.3f}", f"{aim:.2f}", "met" if ratio <= aim else "missed"))
    return rows


class _Contender:
    """The worker with one way of waiting, in a process that draws when it is asked."""

    def __init__(self, model: Path, environment: dict[str, str]) -> None:
        """Start it; returns when it is at rest."""
        inherited = {name: value for name, value in os.environ.items() if name not in _INHERITED_NOT}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.steps.busy_process"],
            cwd=_ROOT,
            env={
                **inherited,
                "PYTHONPATH": f"{_ROOT / 'src'}{os.pathsep}{_ROOT}",
                "MODEL_DIR": str(model.resolve()),
                **environment,
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._asked: IO[str] = self._process.stdin
        self._answers: IO[str] = self._process.stdout
        self._answer()

    def step_ms(self, rows: int) -> float:
        """Milliseconds of a step of a job of so many rows, all steps taken together."""
        self._asked.write(json.dumps([rows, _STEPS, _MOST_S]) + "\n")
        self._asked.flush()
        return 1000 * statistics.fmean(self._answer())

    def _answer(self) -> Any:
        """The next line that is one: the worker's own log comes between."""
        for line in self._answers:
            try:
                return json.loads(line)
            except ValueError:
                continue
        raise RuntimeError("the measured process ended; what it said is above")

    def __enter__(self) -> "_Contender":
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.wait()
        self._asked.close()
        self._answers.close()


@contextmanager
def _neighbours() -> Iterator[None]:
    """While open, another program computes on each core, without end."""
    spinning = [
        subprocess.Popen([sys.executable, "-c", _SPIN, str(core), str(os.getpid())])
        for core in os.sched_getaffinity(0)
    ]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()
