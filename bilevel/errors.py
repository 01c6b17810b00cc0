"""The one exception type whose message is meant for the person at the keyboard."""

__all__ = ["UserError"]


class UserError(ValueError):
    """Bad input, told in one sentence: what is wrong, where, and what is allowed instead.

    The command-line programs print the message without a traceback and exit with status 2.
    """
