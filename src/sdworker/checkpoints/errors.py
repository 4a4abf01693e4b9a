"""What can be wrong with a checkpoint."""

from sdworker.errors import DeploymentError

__all__ = ["CheckpointError"]


class CheckpointError(DeploymentError):
    """The file cannot be made a model's folder; the message is one line, which names the file and says why."""
