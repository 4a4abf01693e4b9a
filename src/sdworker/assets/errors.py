"""What goes wrong with add-on files."""

__all__ = ["AddOnError"]


class AddOnError(Exception):
    """An add-on cannot be had; the message says why and what to do, and names no path and no token."""
