"""NBD URIs.

Source: NBD project, "The NBD Uniform Resource Indicator (URI) format".
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs, quote, unquote, urlsplit

from nbexport.errors import UsageError
from nbexport.nbd import wire


@dataclass(frozen=True)
class NbdUri:
    """Where an export is.

    Attributes:
        export: its name, empty for the default one.
        socket: path of a unix socket, or None for TCP.
        host: name or address without brackets; meaningful for TCP.
        port: TCP port.
    """

    export: str = ""
    socket: str | None = None
    host: str = "localhost"
    port: int = wire.DEFAULT_PORT

    @classmethod
    def parse(cls, text: str) -> NbdUri:
        """Return what a URI names.

        Accepted are ``nbd://HOST[:PORT]/EXPORT`` and ``nbd+unix:///EXPORT?socket=PATH``.

        Raises:
            UsageError: it is no NBD URI, or names a transport that is not supported.
        """
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise UsageError(f"{text}: not a URI: {error}") from error
        if parts.scheme in {"nbds", "nbds+unix", "nbds+vsock"}:
            raise UsageError(f"{text}: TLS is not supported")
        if parts.scheme == "nbd+vsock":
            raise UsageError(f"{text}: vsock is not supported")
        if parts.scheme not in {"nbd", "nbd+unix"}:
            raise UsageError(f"{text}: not an NBD URI (nbd://HOST/ or nbd+unix:///?socket=PATH)")
        # The first slash only separates; a name may begin with one.
        export = unquote(parts.path.removeprefix("/"), errors="surrogateescape")
        if parts.scheme == "nbd":
            return cls(export, None, parts.hostname or "localhost", port or wire.DEFAULT_PORT)
        query = parse_qs(parts.query, keep_blank_values=True, errors="surrogateescape")
        sockets = query.get("socket", [])
        if len(sockets) != 1 or not sockets[0]:
            raise UsageError(f"{text}: a unix URI names one socket: ?socket=PATH")
        return cls(export, sockets[0])

    def __str__(self) -> str:
        export = quote(self.export, safe="/", errors="surrogateescape")
        if self.socket is not None:
            path = quote(self.socket, safe="/", errors="surrogateescape")
            return f"nbd+unix:///{export}?socket={path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == wire.DEFAULT_PORT else f":{self.port}"
        return f"nbd://{host}{port}/{export}"
