"""Which generations make the next step. Pure bookkeeping: no tensors, no clock, no threads.

First come, first served lets a long job hold up every short one behind it. What is done instead depends on whether
there is room for everybody in one step:

- **A crowd.** Steps are full: that serves most jobs a second. The least work left goes first, which has the best
  mean but alone would let a stream of short jobs hold up a long one for ever; so what has been here for more than
  three times its own length is aged, its work left divided by the square of how much more. Among equals that is
  first come, first served.
- **Room for all.** A step becomes longer for everybody in it by every row. Jobs of similar length share. The
  shortest one first (least `work left x whole work`, which serves slowdown as the least work left serves time:
  Hyytiä, Aalto, Penttinen, "Minimizing slowdown in heterogeneous size-aware dispatching systems", 2012), and one
  that is much longer joins only where the step hardly grows by it: always where rows are nearly free, not at all
  where a few rows fill the hardware. Time passed over ages in the same way.

Times are what the steps cost by `StepCosts`, so the same arrivals give the same steps. Rows that a ControlNet
leads cost its forward too, which those of all generations share; how many rows fill the hardware is the same.
"""

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from sdworker.engine.costs.led import Led

__all__ = ["Candidate", "Costs", "Newcomer", "choose", "step_seconds", "who_may_begin"]

# Up to so many times the first one's length is similar: it shares the step whatever it costs.
_SIMILAR = 3.0
# Texts that differ in length are tiled to a common one, which attention pays for.
_MOST_TILED = 4
# So many times one's own length is usual. With less patience jobs of two sizes, which cannot share, would take
# turns at every step, and both be late.
_USUAL = 3.0


class Costs(Protocol):
    """What steps of a group cost, and how many rows one may have."""

    def seconds(self, rows: int, group: Any, /) -> float: ...
    def limit(self, group: Any, /) -> int: ...


class Candidate(Protocol):
    """What the choice looks at.

    Attributes:
        rows: rows it brings to a UNet batch.
        group: generations of one group can share a step: of one model and shape.
        text_length: tokens of its texts at the coming step.
        evaluations: steps in all.
        evaluations_left: steps to go.
        age: seconds of steps since it was admitted.
        passed_over: seconds of those in which it had no part.
        to_load: add-ons to be brought onto the device first.
        adapter_bytes: memory that a step needs for its rows' LoRAs.
        most_adapter_bytes: most that a step of its group may need; one alone is taken whatever it needs.
        led: which of its rows ControlNets lead.
    """

    @property
    def rows(self) -> int: ...
    @property
    def group(self) -> Any: ...
    @property
    def text_length(self) -> int: ...
    @property
    def evaluations(self) -> float: ...
    @property
    def evaluations_left(self) -> float: ...
    @property
    def age(self) -> float: ...
    @property
    def passed_over(self) -> float: ...
    @property
    def to_load(self) -> int: ...
    @property
    def adapter_bytes(self) -> int: ...
    @property
    def most_adapter_bytes(self) -> int: ...
    @property
    def led(self) -> Sequence[Led]: ...


class Newcomer(Candidate, Protocol):
    """What the choice of who may begin looks at.

    Attributes:
        is_live: it has begun, and has what it needs.
        memory_bytes: what it holds from its beginning on.
    """

    @property
    def is_live(self) -> bool: ...
    @property
    def memory_bytes(self) -> int: ...


C = TypeVar("C", bound=Candidate)
N = TypeVar("N", bound=Newcomer)


def choose(waiting: Sequence[C], costs: Costs, among: Sequence[C] | None = None) -> list[C]:
    """The generations of the next step, all of one group and with texts that can be tiled to one length; the first
    has the best claim.

    Args:
        waiting: every unfinished generation, in order of arrival, which decides among equals.
        costs: what steps cost. The first generation is taken even if it alone has more rows than the limit.
        among: those of them that can have part now, in the same order; None: all.
    """
    eligible = waiting if among is None else among
    if len(eligible) < 2:
        return list(eligible)
    crowded = sum(one.rows / costs.limit(one.group) for one in waiting) > 1
    rank = _rank_in_a_crowd if crowded else _rank_with_room
    first, *others = sorted(eligible, key=lambda one: rank(one, costs))
    limit = costs.limit(first.group)
    chosen, similar = [first], [first]
    lengths = {first.text_length}
    rows = first.rows
    gathered = first.adapter_bytes
    for one in others:
        together = rows + one.rows
        if one.group != first.group or together > limit:
            continue
        if one.adapter_bytes and gathered + one.adapter_bytes > first.most_adapter_bytes:
            continue
        if not _can_be_tiled(lengths | {one.text_length}):
            continue
        ratio = _work(first, costs) / _work(one, costs)
        if ratio * _SIMILAR >= 1:
            similar.append(one)
        elif not crowded and step_seconds([*chosen, one], costs) > step_seconds(
            similar, costs
        ) * _bearable_growth(ratio):
            continue
        chosen.append(one)
        lengths.add(one.text_length)
        rows = together
        gathered += one.adapter_bytes
    return chosen


def who_may_begin(
    waiting: Sequence[N], costs: Costs, free_bytes: int, has_slots: Callable[[N], bool] = lambda _: True
) -> list[N]:
    """Those that live, and those of the others that fit into memory, in order of arrival.

    What fits may pass what does not, but not for ever: behind one that was passed over for longer than is usual
    nothing begins, until enough of those that live have left.

    Args:
        waiting: every unfinished generation, in order of arrival.
        free_bytes: what those that live leave of the memory there is for all.
        has_slots: whether one's LoRAs are there, or room for them is.
    """
    may: list[N] = []
    held_up = False
    for one in waiting:
        if one.is_live or (not held_up and one.memory_bytes <= free_bytes and has_slots(one)):
            may.append(one)
        else:
            held_up = held_up or one.passed_over > _USUAL * _work(one, costs)
    return may


def step_seconds(chosen: Sequence[Candidate], costs: Costs) -> float:
    """What a step of these takes: the UNet's forward over all their rows, and each ControlNet's over those that it
    leads.

    Args:
        chosen: of one group; one at least.
    """
    led: dict[Hashable, tuple[float, int]] = {}
    for one in chosen:
        for lead in one.led:
            if lead.now:
                led[lead.net] = lead.share, led.get(lead.net, (0.0, 0))[1] + lead.rows
    group = chosen[0].group
    return costs.seconds(sum(one.rows for one in chosen), group) + sum(
        share * costs.seconds(rows, group) for share, rows in led.values()
    )


def _can_be_tiled(lengths: Collection[int]) -> bool:
    """Whether texts of these lengths, all repeated to one length, come to at most four times the longest."""
    return math.lcm(*lengths) <= _MOST_TILED * max(lengths)


def _rank_in_a_crowd(one: Candidate, costs: Costs) -> float:
    return _work_left(one, costs) / max(1.0, (1 + one.age / _work(one, costs)) / _USUAL) ** 2


def _rank_with_room(one: Candidate, costs: Costs) -> float:
    work = _work(one, costs)
    return _work_left(one, costs) * work / max(1.0, (1 + one.passed_over / work) / _USUAL) ** 2


def _work_left(one: Candidate, costs: Costs) -> float:
    """Each add-on to be loaded counts as a step: those whose add-ons are there go first among equals."""
    plain = (one.evaluations_left + one.to_load) * costs.seconds(one.rows, one.group)
    return plain + _nets_work(one, ((lead, lead.evaluations_left) for lead in one.led), costs)


def _work(one: Candidate, costs: Costs) -> float:
    """Seconds that it takes alone."""
    plain = one.evaluations * costs.seconds(one.rows, one.group)
    return plain + _nets_work(one, ((lead, lead.evaluations) for lead in one.led), costs)


def _nets_work(one: Candidate, evaluations: Iterable[tuple[Led, float]], costs: Costs) -> float:
    return sum(count * lead.share * costs.seconds(lead.rows, one.group) for lead, count in evaluations)


def _bearable_growth(ratio: float) -> float:
    """How many times as long the first one's step may become for one whose work is 1/ratio of the first's.

    Sharing a step delays the first by the growth, and saves the other a step of its own later. Each counted in
    that one's own work, they weigh the same where the growth is ratio / (1 + ratio).
    """
    return 1 + ratio / (1 + ratio)
