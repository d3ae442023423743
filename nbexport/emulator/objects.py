"""The objects that ``object-add`` makes: their types, and which of them there are.

Source: QEMU's ``qapi/qom.json``; the texts were compared with 7.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nbexport import block
from nbexport.emulator import authorization, credentials, secret
from nbexport.emulator.authorization import Authorization
from nbexport.emulator.credentials import Credentials
from nbexport.emulator.graph import is_well_formed
from nbexport.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from nbexport.emulator.release import Release
    from nbexport.nbd import TlsChoice

OBJECTS_MAX = 10_000
"""Objects of a process: a client that adds them in a loop gets an error, not all memory."""

_INT64_MAX = (1 << 63) - 1
_INT_MAX = (1 << 31) - 1
_UINT_MAX = (1 << 32) - 1
_THREAD_POOL_MAX = 64
_THREAD_DEFAULTS = {
    "poll-max-ns": 32768, "poll-grow": 0, "poll-shrink": 0, "aio-max-batch": 0,
    "thread-pool-min": 0, "thread-pool-max": _THREAD_POOL_MAX,
}  # fmt: skip


@dataclass(eq=False)
class UserObject:
    """An object.

    Attributes:
        id: its id.
        type: its type.
        value: what it is to its users: the bytes of a secret, `Credentials`, an `Authorization`,
            a `block.ThrottleGroup`; None for a thread.
        properties: what it was made with, and the defaults of a thread.
    """

    id: str
    type: str
    value: Any
    properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ObjectType:
    """A type of objects.

    Attributes:
        parent: the type that it extends; None for the root.
        abstract: whether there can be no object of exactly this type.
        creatable: whether it has the interface of what a client can make.
        settled: names of numbers that must not be negative, checked as they are set.
    """

    parent: str | None
    abstract: bool = False
    creatable: bool = True
    settled: tuple[str, ...] = ()


_POLLING = ("poll-max-ns", "poll-grow", "poll-shrink")
_LOOP = ("aio-max-batch", "thread-pool-min", "thread-pool-max")

TYPES: dict[str, ObjectType] = {
    "object": ObjectType(None, abstract=True, creatable=False),
    "interface": ObjectType(None, abstract=True, creatable=False),
    "user-creatable": ObjectType("interface", abstract=True, creatable=True),
    "authz": ObjectType("object", abstract=True, creatable=False),
    "authz-list": ObjectType("authz"),
    "authz-simple": ObjectType("authz"),
    "event-loop-base": ObjectType("object", abstract=True),
    "iothread": ObjectType("event-loop-base", settled=_POLLING + _LOOP),
    "secret_common": ObjectType("object", abstract=True),
    "secret": ObjectType("secret_common"),
    "throttle-group": ObjectType("object"),
    "tls-creds": ObjectType("object", abstract=True, creatable=False),
    "tls-creds-anon": ObjectType("tls-creds"),
    "tls-creds-psk": ObjectType("tls-creds"),
    "tls-creds-x509": ObjectType("tls-creds"),
}

# QEMU lists types in the order of a hash table, which depends on what else the program has.
_SYSTEM_ORDER = (
    "secret_common", "iothread", "user-creatable", "interface", "tls-creds-x509", "secret",
    "throttle-group",
    "tls-creds-psk", "event-loop-base", "authz-simple", "tls-creds", "tls-creds-anon", "object",
    "authz-list", "authz",
)  # fmt: skip
_DAEMON_ORDER = (
    "authz-simple", "secret_common", "interface", "tls-creds-anon", "iothread", "secret", "authz",
    "tls-creds-psk", "tls-creds", "event-loop-base", "authz-list", "user-creatable", "object",
    "tls-creds-x509", "throttle-group",
)  # fmt: skip


def list_types(
    release: Release, *, system: bool, implements: str | None, abstract: bool
) -> Iterator[dict[str, Any]]:
    """Yield types as ``qom-list-types`` tells them.

    Args:
        release: decides which types it has.
        system: whether the process is a system emulator, which has another order.
        implements: only types that extend this one, or have this interface.
        abstract: whether to tell abstract types, too.
    """
    known = {
        name: (kind, _parent(release, name, kind.parent))
        for name, kind in TYPES.items()
        if name not in release.unknown_types
    }

    def is_a(name: str | None, wanted: str) -> bool:
        while name is not None:
            kind, parent = known[name]
            if name == wanted or (wanted in {"user-creatable", "interface"} and kind.creatable):
                return True
            name = parent
        return False

    for name in _SYSTEM_ORDER if system else _DAEMON_ORDER:
        if name not in known:
            continue
        kind, parent = known[name]
        if kind.abstract and not abstract:
            continue
        if implements is not None and not is_a(name, implements):
            continue
        told: dict[str, Any] = {"name": name}
        if kind.abstract:
            told["abstract"] = True
        if parent is not None:
            told["parent"] = parent
        yield told


def _parent(release: Release, name: str, parent: str | None) -> str | None:
    return "object" if parent in release.unknown_types and name != "interface" else parent


class Objects:
    """The objects of a process, in the order of their creation.

    Args:
        release: decides the words of some errors.
    """

    def __init__(self, release: Release) -> None:
        self._release = release
        self._objects: dict[str, UserObject] = {}

    def find(self, identifier: str) -> UserObject | None:
        """Return an object, or None."""
        return self._objects.get(identifier)

    def add(self, kind: str, identifier: str, properties: Mapping[str, Any]) -> None:
        """Make an object.

        Args:
            kind: its type, one that a client can make.
            identifier: its id.
            properties: checked against the schema of the type.

        Raises:
            CommandError: a property is wrong, or the id is, or a file cannot be read. Nothing is
                left of the attempt.
        """
        if self._release.checks_object_ids and not is_well_formed(identifier):
            raise CommandError("Parameter 'id' expects an identifier")
        if "loaded" in properties and not self._release.sets_loaded:
            raise CommandError(f"Property '{kind}.loaded' is not writable")
        for name in TYPES[kind].settled:
            if not 0 <= properties.get(name, 0) <= _INT64_MAX:
                raise CommandError(f"{name} value must be in range [0, {_INT64_MAX}]")
        if identifier in self._objects:
            raise CommandError(
                f"attempt to add duplicate property '{identifier}' to object (type 'container')"
            )
        if len(self._objects) >= OBJECTS_MAX:
            raise CommandError(f"Too many objects (limit {OBJECTS_MAX})")
        value = self._complete(kind, properties)
        known = _THREAD_DEFAULTS | dict(properties) if kind == "iothread" else dict(properties)
        self._objects[identifier] = UserObject(identifier, kind, value, known)

    def _complete(self, kind: str, properties: Mapping[str, Any]) -> Any:
        makers: dict[str, Callable[[Mapping[str, Any]], Any]] = {
            "secret": lambda given: secret.load(given, self.secret),
            "tls-creds-x509": lambda given: credentials.certificates(given, self._password),
            "tls-creds-psk": credentials.shared_keys,
            "tls-creds-anon": credentials.anonymous,
            "authz-simple": authorization.simple,
            "authz-list": authorization.from_list,
            "iothread": _check_thread,
            "throttle-group": _make_group,
        }
        return makers[kind](properties)

    def remove(self, identifier: str) -> None:
        """Forget an object; who uses what it stands for keeps that.

        Raises:
            CommandError: there is none of this id, or it is in use.
        """
        found = self._objects.get(identifier)
        if found is None:
            raise CommandError(f"object '{identifier}' not found")
        if isinstance(found.value, block.ThrottleGroup) and found.value.members:
            raise CommandError(f"object '{identifier}' is in use, can not be deleted")
        del self._objects[identifier]

    def secret(self, identifier: str) -> bytes:
        """Return the bytes of a secret.

        Raises:
            CommandError: there is none of this id.
        """
        found = self._objects.get(identifier)
        if found is None:
            raise CommandError(f"No secret with id '{identifier}'")
        if not isinstance(found.value, bytes):
            raise CommandError(f"Object with id '{identifier}' is not a secret")
        return found.value

    def _password(self, identifier: str) -> str:
        try:
            return self.secret(identifier).decode()
        except UnicodeDecodeError:
            raise CommandError(f"Data from secret {identifier} is not valid UTF-8") from None

    def server_credentials(self, identifier: str) -> Credentials:
        """Return the credentials of a side that listens.

        Raises:
            CommandError: there are none of this id.
        """
        found = self._credentials(identifier)
        if not found.server:
            raise CommandError(self._release.wrong_endpoint_text("server"))
        return found

    def client_credentials(self, identifier: str) -> Credentials:
        """Return the credentials of a side that connects.

        Raises:
            CommandError: there are none of this id.
        """
        found = self._credentials(identifier)
        if found.server:
            raise CommandError(self._release.wrong_endpoint_text("client"))
        return found

    def _credentials(self, identifier: str) -> Credentials:
        found = self._objects.get(identifier)
        if found is None:
            raise CommandError(f"No TLS credentials with id '{identifier}'")
        if not isinstance(found.value, Credentials):
            raise CommandError(f"Object with id '{identifier}' is not TLS credentials")
        return found.value

    def client_tls(self, identifier: str, hostname: str | None) -> TlsChoice:
        """Return how a connection is secured with credentials.

        Args:
            identifier: of the credentials.
            hostname: the name that the server's certificate must have; None for the host's.

        Raises:
            CommandError: there are none of this id, or they are a server's.
        """
        return self.client_credentials(identifier).for_client(hostname)

    def authorizer(self, identifier: str) -> Callable[[str], bool]:
        """Return what asks an authorization that need be there only when somebody comes."""

        def allows(name: str) -> bool:
            found = self._objects.get(identifier)
            value = None if found is None else found.value
            return isinstance(value, Authorization) and value.allows(name)

        return allows

    def thread(self, identifier: str) -> UserObject:
        """Return a thread for requests, by its id or by its path.

        Raises:
            CommandError: there is none of this id.
        """
        found = self._objects.get(identifier.removeprefix("/objects/"))
        if found is None or found.type != "iothread":
            raise CommandError(f'iothread "{identifier}" not found')
        return found


def _check_thread(properties: Mapping[str, Any]) -> None:
    fewest = properties.get("thread-pool-min", 0)
    most = properties.get("thread-pool-max", _THREAD_POOL_MAX)
    if not 0 < most <= _INT_MAX or fewest > most:
        raise CommandError("bad thread-pool-min/thread-pool-max values")


def _make_group(properties: Mapping[str, Any]) -> block.ThrottleGroup:
    configuration = block.Configuration()
    try:
        for name, value in properties.items():
            if name != "limits":
                _set_alone(configuration, name, value)
        configuration.update(properties.get("limits", {}))
        configuration.check()
    except ValueError as error:
        raise CommandError(str(error)) from error
    return block.ThrottleGroup(configuration)


def _set_alone(configuration: block.Configuration, name: str, value: int) -> None:
    """Set one limit by a property of its own."""
    if value < 0:
        raise CommandError("Property values cannot be negative")
    if name.endswith("-length") and value > _UINT_MAX:
        # The missing blank is QEMU's, and clients see its text.
        raise CommandError(f"{name} value must be in therange [0, {_UINT_MAX}]")
    configuration.update({name.removeprefix("x-"): value})
