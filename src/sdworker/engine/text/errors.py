"""What is wrong with a prompt, in words for whoever wrote it."""

from sdworker.errors import UserError

__all__ = ["PromptError"]


class PromptError(UserError):
    """A prompt cannot be drawn as it stands; the message says what it asks for and what is allowed."""
