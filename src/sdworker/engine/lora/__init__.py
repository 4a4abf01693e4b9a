"""LoRAs: files read into one form, whatever tool made them, and rows of one forward with their own each.

`names` finds each tensor's module, `products` brings what the tools store (LoRA, LoCon, LoHa, LoKr, whole
differences) to a product of two factors, `reader` checks a file and does both.
`slots` are where a network has them on the device, `rows` says which a batch uses, and `adapters` is both for all
networks of a model. Nothing here knows of jobs, and nothing of the loop.
"""

from sdworker.engine.lora.adapters import NO_LORAS, Adapters, Applied, Held, LoraUse
from sdworker.engine.lora.low_rank import LowRank, Target, merge, targets_of
from sdworker.engine.lora.names import Directory
from sdworker.engine.lora.reader import LoraError, LoraWeights, read_lora

__all__ = [
    "NO_LORAS",
    "Adapters",
    "Applied",
    "Directory",
    "Held",
    "LoraError",
    "LoraUse",
    "LoraWeights",
    "LowRank",
    "Target",
    "merge",
    "read_lora",
    "targets_of",
]
