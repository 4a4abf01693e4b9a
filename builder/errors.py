"""The one exception the builder's users meet."""

__all__ = ["FetchError"]


class FetchError(Exception):
    """The model cannot be had. The message is one line that says what is wrong and what to do."""
