"""Listening sockets, made with care: what both wire protocols need before they speak.

A socket that nobody listens on any more is replaced; anything else at its path is left alone. No
event loop is involved, and nothing here waits.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbexport.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

UNIX_PATH_MAX = 108
"""Bytes of the kernel's field; a path that fills it needs no byte that ends it."""


class UnixListener:
    """A listening unix socket and the file that belongs to it.

    Args:
        path: where.
        backlog: connections that may wait to be accepted.

    Raises:
        UsageError: the path is too long, somebody listens there, or it is no socket.
        OSError: the socket cannot be made there.

    Attributes:
        socket: does not block; whoever accepts from it closes it.
        path: absolute.
    """

    def __init__(self, path: str | Path, backlog: int) -> None:
        if len(os.fsencode(path)) > UNIX_PATH_MAX:
            raise UsageError(f"UNIX socket path '{path}' is too long")
        self.path = Path(path).absolute()
        _make_room(self.path, path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.setblocking(False)  # noqa: FBT003 - the standard library's signature
            # As it was given: the absolute path may be too long.
            _with_path(self.socket, "bind", path)
            self._inode = self.path.lstat().st_ino
            self.socket.listen(backlog)
        except BaseException as error:
            self.socket.close()
            if isinstance(error, OSError):
                error.filename = os.fspath(path)  # the kernel tells the reason only
            raise

    def unlink(self) -> None:
        """Remove the socket's file if it is still the one that was made."""
        with contextlib.suppress(OSError):
            status = self.path.lstat()
            if stat.S_ISSOCK(status.st_mode) and status.st_ino == self._inode:
                self.path.unlink()


_early: dict[str, UnixListener] = {}


def listen_early(path: str, backlog: int) -> None:
    """Listen at a path that will be opened in a moment; clients wait in the queue until then.

    Only where nothing is yet. What goes wrong is not told: it does again when the path is opened.

    Args:
        path: as it will be given to `open_unix`.
        backlog: connections that may wait to be accepted.
    """
    if path not in _early and not os.path.lexists(path):
        with contextlib.suppress(OSError, ValueError):
            _early[path] = UnixListener(path, backlog)


def is_early(path: str | Path) -> bool:
    """Return whether `listen_early` has opened a path that nobody has taken yet."""
    return os.fspath(path) in _early


def open_unix(path: str | Path, backlog: int) -> UnixListener:
    """Return a listening unix socket: what `listen_early` opened, or a new one, which may raise."""
    return _early.pop(os.fspath(path), None) or UnixListener(path, backlog)


def forget_early() -> None:
    """Remove what `listen_early` opened and nobody took."""
    while _early:
        _, listener = _early.popitem()
        listener.unlink()
        listener.socket.close()


def connect_unix(made: socket.socket, path: str | Path) -> None:
    """Connect a unix socket; one that has a time limit connects at once or fails.

    Raises:
        OSError: it cannot be connected.
    """
    _with_path(made, "connect", path)


def _with_path(made: socket.socket, call: str, path: str | Path) -> None:
    encoded = os.fsencode(path)
    if len(encoded) != UNIX_PATH_MAX:
        getattr(made, call)(encoded)
        return
    # The standard library wants room for a byte that ends the path.
    import ctypes  # noqa: PLC0415 - hardly ever

    address = socket.AF_UNIX.to_bytes(2, sys.byteorder) + encoded
    if getattr(ctypes.CDLL(None, use_errno=True), call)(made.fileno(), address, len(address)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _make_room(target: Path, shown: str | Path) -> None:
    """Remove a socket that nobody listens on; refuse anything else that is at the path."""
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"{shown}: exists and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # noqa: FBT003 - the standard library's signature
        try:
            probe.connect(os.fspath(shown))
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                target.unlink()
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EINPROGRESS):
                raise
    raise UsageError(f"{shown}: another program listens on this socket")


def tcp_listeners(found: Iterable[tuple[Any, ...]], port: int, backlog: int) -> list[socket.socket]:
    """Return listening sockets, all at the same port, that do not block.

    Args:
        found: what ``getaddrinfo`` says of the host, for stream sockets.
        port: the port; 0 lets the kernel choose one, which all of them get.
        backlog: connections that may wait to be accepted.

    Raises:
        OSError: the first address cannot be listened on. A further one that this machine does not
            have (IPv6, most often) is left out.
    """
    sockets: list[socket.socket] = []
    where = ""
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            where = f"{address[0]}:{port}"
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            chosen = sockets[0].getsockname()[1] if len(sockets) > 1 else port
            sock.bind((address[0], chosen, *address[2:]))
            sock.listen(backlog)
    except OSError as error:
        if len(sockets) > 1 and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            sockets.pop().close()
            return sockets
        for sock in sockets:
            sock.close()
        error.filename = where  # the kernel tells the reason only
        raise
    return sockets
