"""With how many threads a CPU's steps are quickest just now. Pure: no torch, no clock of its own.

The threads of a step wait for one another some hundred times, so one core that another program keeps busy makes
all of them late: then fewer threads are quicker, on two busy cores even one. What is quicker can only be tried. So
where steps take far longer than known, and otherwise more and more seldom, the next few are taken with half the
threads; and where there are fewer than there might be, now and then with twice as many. The quicker number stays.
"""

import statistics
from collections import deque

__all__ = ["ThreadChooser"]

# Steps that take so many times what they should are late; fewer threads may help.
_LATE = 2.5
# Steps that tell how it goes with the number in use.
_RECENT = 5
# A trial's steps are each compared with the recent ones; so many that say the same decide. The first, which makes
# or ends threads, counts for nothing.
_VOTES = 3
# Of a recent step's time, what a step takes at most that is quicker: with fewer threads, and with more, which need
# less to be said for them, since a quiet machine is quickest with all.
_QUICKER_WITH_FEWER = 0.8
_QUICKER_WITH_MORE = 0.95
# Seconds until the next trial: first after a change, doubled with each that was in vain.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 80.0
# What steps should take was perhaps learned in a crowd, and none is late then. So fewer threads are tried at once,
# and from then on ever more seldom.
_FIRST_LOOK_S, _LAST_LOOK_S = 10.0, 300.0


class ThreadChooser:
    """Chooses a number of threads from what steps took.

    Attributes:
        threads: for the next step.
    """

    def __init__(self, most: int, *, now_s: float) -> None:
        """
        Args:
            most: as many as there are cores for.
            now_s: the time, on any clock; the same in every call.
        """
        self.threads = most
        self._most = most
        self._kept = most
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._votes: list[bool] | None = None  # of the trial at hand, the first step of which is past
        self._fewer_first = True  # where both may be tried: they take turns
        self._pause_s = _FIRST_PAUSE_S
        self._next_trial_s = now_s  # the first step that is late enough may begin one
        self._look_s = _FIRST_LOOK_S
        self._next_look_s = now_s

    def step_took(self, ratio: float, now_s: float) -> int:
        """A step took `ratio` times what it should. Returns how many threads the next one gets."""
        if self.threads != self._kept:
            self._count(ratio, now_s)
            return self.threads
        self._recent.append(ratio)
        if len(self._recent) == _RECENT:
            self.threads = self._to_try(now_s)
        return self.threads

    def _to_try(self, now_s: float) -> int:
        """The number to go on with: another, where it is time for a trial."""
        late = statistics.median(self._recent) > _LATE
        if self._kept == self._most and not late:  # whatever was tried in vain was tried in another crowd
            self._next_trial_s, self._pause_s = now_s, _FIRST_PAUSE_S
        due = now_s >= self._next_trial_s
        fewer = self._kept > 1 and ((late and due) or now_s >= self._next_look_s)
        more = self._kept < self._most and due
        if more and not (fewer and self._fewer_first):
            return min(2 * self._kept, self._most)
        return self._kept // 2 if fewer else self._kept

    def _count(self, ratio: float, now_s: float) -> None:
        """A step of a trial; the last one decides."""
        if self._votes is None:
            self._votes = []
            return
        enough = _QUICKER_WITH_MORE if self.threads > self._kept else _QUICKER_WITH_FEWER
        self._votes.append(ratio < enough * statistics.median(self._recent))
        if max(self._votes.count(True), self._votes.count(False)) < _VOTES:
            return
        if self._votes.count(True) == _VOTES:
            self._kept = self.threads
            self._recent.clear()
            self._pause_s = _FIRST_PAUSE_S
        else:
            self._fewer_first = self.threads > self._kept
            self.threads = self._kept
        self._next_trial_s = now_s + self._pause_s
        self._next_look_s = now_s + self._look_s
        self._look_s = min(2 * self._look_s, _LAST_LOOK_S)
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        self._votes = None
