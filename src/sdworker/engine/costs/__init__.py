"""What a step costs on this hardware, and what is learned of it.

step_costs.py   seconds by rows and size, and how many rows a step may have: what the policy goes by
led.py          what ControlNets add to a drawing's steps
arithmetic.py   what a network's forward takes beside another's
calibration.py  timing forwards, one number of rows after the other
learner.py      when to measure, and what to make of it
threads.py      with how many threads a CPU's steps are quickest just now

Imports no networks: whatever has forwards can be measured.
"""

from sdworker.engine.costs.arithmetic import multiplications
from sdworker.engine.costs.led import Led
from sdworker.engine.costs.step_costs import ASSUMED_SECONDS, Shape, StepCosts, worthwhile

__all__ = ["ASSUMED_SECONDS", "Led", "Shape", "StepCosts", "multiplications", "worthwhile"]
