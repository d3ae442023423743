"""Where the commands register themselves, by the name that the schema gives them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbexport.emulator.machine import Machine

Arguments = Mapping[str, Any]
Handler = Callable[["Machine", Arguments], Awaitable[Any]]

COMMANDS: dict[str, Handler] = {}


def command(name: str) -> Callable[[Handler], Handler]:
    """Register a function as the command ``name``.

    The function gets the machine and the validated arguments; optional ones that were not sent are
    absent. It returns the command's result, or None for an empty one, and raises CommandError.
    """

    def register(handler: Handler) -> Handler:
        assert name not in COMMANDS, name
        COMMANDS[name] = handler
        return handler

    return register
