"""Single `.safetensors` checkpoints, in the original Stable Diffusion layout, made folders in diffusers' layout.

Such a file has weights and nothing else. Configurations and the tokenizer of the families that are known by their
weights alone are kept here, so nothing is downloaded: neither when the builder makes a model's folder, nor when a
worker comes upon such a file.

    header       what a file holds, without reading it
    recognise    which family it is of, or what it is instead
    names        the original names of the weights → diffusers'
    folder       the file written as a folder
    kept         that folder, made once for all workers that share the place
"""

from sdworker.checkpoints.errors import CheckpointError
from sdworker.checkpoints.folder import write_configs, write_folder
from sdworker.checkpoints.header import Entry, is_integer, read_header, read_metadata
from sdworker.checkpoints.kept import described, kept_folder
from sdworker.checkpoints.recognise import Checkpoint, read_checkpoint

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Entry",
    "described",
    "is_integer",
    "kept_folder",
    "read_checkpoint",
    "read_header",
    "read_metadata",
    "write_configs",
    "write_folder",
]
