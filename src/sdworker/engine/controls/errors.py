"""What a user can mend about a ControlNet."""

__all__ = ["ControlError"]


class ControlError(Exception):
    """A ControlNet cannot be used; the message says why, without paths, and what to do."""
