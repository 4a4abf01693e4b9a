"""What a user can mend about a ControlNet."""

from sdworker.errors import UserError

__all__ = ["ControlError"]


class ControlError(UserError):
    """A ControlNet cannot be used."""
