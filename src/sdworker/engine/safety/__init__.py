"""diffusers' safety checker: its files, its network, and its judgement, each equal to diffusers' own.

preparation    a picture as CLIP's image processor gives it to a network
vision         CLIP's vision model, without importing transformers
checker        both, from a folder, and what their answer means
"""

from sdworker.engine.safety.checker import SafetyChecker, has_checker, weights_of

__all__ = ["SafetyChecker", "has_checker", "weights_of"]
