"""NBD URIs.

Source: NBD project, "The NBD Uniform Resource Indicator (URI) format".
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs, quote, unquote, urlsplit

from nbexport.errors import UsageError
from nbexport.nbd import wire


@dataclass(frozen=True)
class TlsChoice:
    """How a connection is to be secured.

    Attributes:
        certificates: folder with ``ca-cert.pem`` and, to show one of our own, ``client-cert.pem``
            and ``client-key.pem``; None for the system's authorities.
        hostname: the name that the server's certificate must have; None for the host's.
        verify: whether that is checked.
        psk_file: file of shared keys, ``NAME:HEX`` a line; None for certificates.
        username: whose key it is.
        password: of the key of our own certificate; no URI has it.
        needs_name: whether a certificate is not verified without a name, as by QEMU, where a unix
            socket has none; otherwise it is ``localhost`` there. No URI has it.
        anonymous: whether neither side shows anything; no URI has it.
    """

    certificates: str | None = None
    hostname: str | None = None
    verify: bool = True
    psk_file: str | None = None
    username: str | None = None
    password: str | None = None
    needs_name: bool = False
    anonymous: bool = False


@dataclass(frozen=True)
class NbdUri:
    """Where an export is.

    Attributes:
        export: its name, empty for the default one.
        socket: path of a unix socket, or None for TCP.
        host: name or address without brackets; meaningful for TCP.
        port: TCP port.
        tls: how the connection is secured; None for not at all.
    """

    export: str = ""
    socket: str | None = None
    host: str = "localhost"
    port: int = wire.DEFAULT_PORT
    tls: TlsChoice | None = None

    @classmethod
    def parse(cls, text: str) -> NbdUri:
        """Return what a URI names.

        Accepted are ``nbd://HOST[:PORT]/EXPORT`` and ``nbd+unix:///EXPORT?socket=PATH``, and with
        ``nbds`` the same over TLS, which the query's ``tls-certificates``, ``tls-hostname``,
        ``tls-verify-peer``, ``tls-psk-file`` and ``tls-username`` tell more of.

        Raises:
            UsageError: it is no NBD URI, or names a transport that is not supported.
        """
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise UsageError(f"{text}: not a URI: {error}") from error
        if parts.scheme in {"nbd+vsock", "nbds+vsock"}:
            raise UsageError(f"{text}: vsock is not supported")
        if parts.scheme not in {"nbd", "nbds", "nbd+unix", "nbds+unix"}:
            raise UsageError(f"{text}: not an NBD URI (nbd://HOST/ or nbd+unix:///?socket=PATH)")
        # The first slash only separates; a name may begin with one.
        export = unquote(parts.path.removeprefix("/"), errors="surrogateescape")
        # A plus sign is itself: only forms of web pages mean a space by it.
        plain = parts.query.replace("+", "%2B")
        query = parse_qs(plain, keep_blank_values=True, errors="surrogateescape")
        tls = _tls(text, query, parts.username) if parts.scheme.startswith("nbds") else None
        if not parts.scheme.endswith("+unix"):
            host = parts.hostname or "localhost"
            return cls(export, None, host, port or wire.DEFAULT_PORT, tls)
        sockets = query.get("socket", [])
        if len(sockets) != 1 or not sockets[0]:
            raise UsageError(f"{text}: a unix URI names one socket: ?socket=PATH")
        if "\0" in sockets[0]:
            raise UsageError(f"{text}: the path of a socket has no NUL in it")
        return cls(export, sockets[0], tls=tls)

    def __str__(self) -> str:
        export = quote(self.export, safe="/", errors="surrogateescape")
        scheme = "nbd" if self.tls is None else "nbds"
        query = {} if self.socket is None else {"socket": self.socket}
        if self.tls is not None:
            query |= _query(self.tls)
        asked = "&".join(
            f"{name}={quote(value, safe='/', errors='surrogateescape')}"
            for name, value in query.items()
        )
        rest = f"/{export}" + (f"?{asked}" if asked else "")
        if self.socket is not None:
            return f"{scheme}+unix://{rest}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == wire.DEFAULT_PORT else f":{self.port}"
        return f"{scheme}://{host}{port}{rest}"


_TRUTH = {"true": True, "1": True, "false": False, "0": False}


def _tls(text: str, query: dict[str, list[str]], user: str | None) -> TlsChoice:
    """Return what a URI says of TLS."""

    def one(name: str) -> str | None:
        values = query.get(name, [])
        if len(values) > 1 or values == [""]:
            raise UsageError(f"{text}: {name} must have one value")
        return values[0] if values else None

    verify = one("tls-verify-peer")
    if verify is not None and verify not in _TRUTH:
        raise UsageError(f"{text}: tls-verify-peer is true or false, not '{verify}'")
    psk_file, certificates = one("tls-psk-file"), one("tls-certificates")
    if psk_file is not None and certificates is not None:
        raise UsageError(f"{text}: tls-psk-file and tls-certificates exclude each other")
    return TlsChoice(
        certificates,
        one("tls-hostname"),
        verify is None or _TRUTH[verify],
        psk_file,
        one("tls-username") or user,
    )


def _query(tls: TlsChoice) -> dict[str, str]:
    found = {
        "tls-certificates": tls.certificates,
        "tls-hostname": tls.hostname,
        "tls-verify-peer": None if tls.verify else "false",
        "tls-psk-file": tls.psk_file,
        "tls-username": tls.username,
    }
    return {name: value for name, value in found.items() if value is not None}
