"""LoRA files: read into one form, whatever tool made them.

`names` finds each tensor's module, `products` brings what the tools store (LoRA, LoCon, LoHa, LoKr, whole
differences) to a product of two factors, `reader` checks a file and does both. Nothing here knows of jobs, and
nothing draws: what a model does with the factors is the networks' affair.
"""

from sdworker.engine.lora.low_rank import LowRank, Target, merge, targets_of
from sdworker.engine.lora.reader import LoraError, LoraWeights, read_lora

__all__ = ["LoraError", "LoraWeights", "LowRank", "Target", "merge", "read_lora", "targets_of"]
