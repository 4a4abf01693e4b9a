"""What goes wrong with add-on files."""

from sdworker.errors import UserError

__all__ = ["AddOnError"]


class AddOnError(UserError):
    """An add-on cannot be had; the message says why and what to do, and names no path and no token."""
