"""What is wrong with a prompt, in words for whoever wrote it."""

__all__ = ["PromptError"]


class PromptError(ValueError):
    """A prompt cannot be drawn as it stands; the message says what it asks for and what is allowed."""
