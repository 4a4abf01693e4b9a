"""What people can mend, by who it is; every error of either kind derives from one of these two.

Their messages go out as they are: whoever can mend it reads them, and nothing else of the error.
"""

__all__ = ["DeploymentError", "UserError"]


class UserError(Exception):
    """A job cannot be done as it was sent; the message says why, what to do, and no path or secret."""


class DeploymentError(Exception):
    """The worker cannot start as it is set up; the message names the variable or the file, and no secret."""
