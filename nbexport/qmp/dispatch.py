"""From a command's name and arguments to its handler, by the schema of a release."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from nbexport.errors import CommandError, UsageError
from nbexport.qapi.arrange import arrange
from nbexport.qapi.introspect import introspect
from nbexport.qmp.policy import CompatPolicy

if TYPE_CHECKING:
    from nbexport.qapi.schema import Schema

Handler = Callable[[Mapping[str, Any]], Awaitable[Any]]
"""Gets a command's checked arguments, returns its result; None stands for the empty object."""

# Answered by the session, which alone knows the state of the negotiation.
NEGOTIATION = "qmp_capabilities"


class Dispatcher:
    """The commands of one release.

    A command exists if the schema has it and there is a handler for it. ``query-commands`` and
    ``query-qmp-schema`` follow from the schema and are answered here unless a handler is given.

    Args:
        schema: the interface; it decides which commands exist and what arguments they take.
        handlers: for each command a coroutine function that gets the checked arguments (defaults
            are not filled in) and returns the result; None stands for the empty object.
        release: the release whose error texts are wanted.
        policy: what is done about deprecated and unstable interfaces; the default accepts all.
        removed: names of events that the schema had once; nobody is told of them.

    Raises:
        UsageError: a handler for a command that the schema does not have.
    """

    def __init__(
        self,
        schema: Schema,
        handlers: Mapping[str, Handler],
        *,
        release: tuple[int, ...],
        policy: CompatPolicy | None = None,
        removed: Collection[str] = (),
    ) -> None:
        self.schema = schema
        self.removed = frozenset(removed)
        self.policy = policy or CompatPolicy(release=release)
        self.release = release
        self._introspection: list[dict[str, Any]] | None = None
        known = {command.name for command in schema.commands()}
        unknown = sorted(set(handlers) - known)
        if unknown:
            raise UsageError(f"the schema has no command {', '.join(unknown)}")
        self._handlers = dict(handlers)
        own = {"query-commands": self._query_commands, "query-qmp-schema": self._query_schema}
        for name, handler in own.items():
            if name in known:
                self._handlers.setdefault(name, handler)

    async def dispatch(self, command: str, arguments: Any, *, oob: bool = False) -> Any:
        """Check and run a command.

        Args:
            command: its name.
            arguments: its arguments.
            oob: whether the client wants it to overtake others.

        Returns:
            The result, a JSON value without the members that the release does not have; the empty
            object for a command without one.

        Raises:
            CommandError: there is no such command, the policy rejects it, the arguments do not fit,
                or the handler refuses; the text is QEMU's.
            PolicyCrashError: the policy has the process crash.
        """
        entity = self.schema.command(command)
        handler = self._handlers.get(command)
        if entity is None or handler is None:
            raise CommandError(
                f"The command {command} has not been found", error_class="CommandNotFound"
            )
        self.policy.check_input(self.schema, entity.features, "command", command)
        if oob and not entity.allow_oob:
            raise CommandError(f"The command {command} does not support OOB")
        self.policy.validate(self.schema, entity.arg_type, arguments)
        result = await handler(arguments)
        if result is None:
            return {}
        hides = partial(self.policy.hides, self.schema) if self.policy.hides_some else None
        return arrange(self.schema, entity.ret_type, result, prune=True, hides=hides)

    def responds(self, command: str) -> bool:
        """Return whether success is answered at all (``success-response`` of the language)."""
        entity = self.schema.command(command)
        return entity is None or entity.success_response

    async def _query_commands(self, _arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the commands, newest registration first, as QEMU lists them."""
        names = [command.name for command in self.schema.commands()]
        served = [name for name in names if name in self._handlers or name == NEGOTIATION]
        return [{"name": name} for name in reversed(served)]

    async def _query_schema(self, _arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        # nothing of it changes, and what is returned is copied
        if self._introspection is None:
            entries = introspect(self.schema, release=self.release)
            self._introspection = self.policy.filter_schema(entries)
        return self._introspection
