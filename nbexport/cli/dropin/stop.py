"""How a drop-in command ends."""

from __future__ import annotations


class StopError(Exception):
    """The program ends with a message and status 1.

    Args:
        message: what is said, after the program's name.
        hint: what is said below it, without the name.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
