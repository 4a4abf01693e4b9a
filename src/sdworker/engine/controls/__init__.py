"""ControlNets: networks beside the UNet that make it follow a picture, the hint.

`net` is one that is loaded, `files` reads it from a folder or a single file, `store` keeps those in use on the
device within a budget, and `rows` says which rows of a forward are led by which, and what that adds to the UNet.
Nothing here knows of jobs or of the loop.
"""

from sdworker.engine.controls.control import Control
from sdworker.engine.controls.errors import ControlError
from sdworker.engine.controls.net import ControlNet

__all__ = ["Control", "ControlError", "ControlNet"]
