"""How OpenMP's threads wait for one another on a CPU. No torch here: it must be settled before that is loaded.

By itself libgomp lets a thread spin for milliseconds before it sleeps. On cores that other programs want too, that
is time in which nobody computes. On quiet cores nothing is lost by sleeping sooner, because a wait within a
forward hardly ever lasts longer than 10,000 turns, some tens of microseconds; sleeping at once, as
OMP_WAIT_POLICY=PASSIVE has it, loses much (`python -m bench busy`, docs/tuning.md).
"""

import os

__all__ = ["wait_a_moment"]

_TURNS = "10000"
_SET_BY_HAND = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def wait_a_moment() -> None:
    """Let waiting threads spin for a moment and then sleep, unless the environment says how they shall wait."""
    if not any(name in os.environ for name in _SET_BY_HAND):
        os.environ["GOMP_SPINCOUNT"] = _TURNS
