"""The errors of the package: one class for each reaction, not one for each message.

::

    NbexportError                 anything this package raises on purpose
    ├── UsageError                stop the program: the caller asked for something impossible
    ├── FormatError               stop the program: a file is not what it claims to be
    ├── SourceError               stop the program: a schema file is wrong at a file and line
    ├── PeerError                 stop the program: the other side of a connection refused or broke
    ├── NotebookError             stop the program: a notebook failed or was called wrongly
    ├── ProtocolError             close the connection
    ├── OptionError               refuse the NBD option, go on negotiating
    ├── RequestError              fail the NBD request, go on with the next
    └── CommandError              answer the QMP command with an error, go on with the next

Each message names the thing and the place; nobody parses a message.
"""

from __future__ import annotations


class NbexportError(Exception):
    """Root of every error that the package raises on purpose."""


class UsageError(NbexportError, ValueError):
    """The caller asked for something impossible: bad argument, unknown name, occupied path."""


class FormatError(NbexportError):
    """The bytes of a file are not what their format demands.

    Args:
        message: what is wrong, naming the field.
        path: the file, if known; it opens the text of the error.
    """

    def __init__(self, message: str, *, path: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.path = path

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path is not None else self.message


class SourceError(NbexportError):
    """A schema source is wrong at a known place; rooms that parse sources derive from it."""


class PeerError(NbexportError):
    """A peer refused what was asked, closed the connection, or answered against the protocol.

    Args:
        message: what it did.
        errno: the error value of the NBD protocol that it refused a request with, which leaves the
            connection of use; None for anything else.
    """

    def __init__(self, message: str, *, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno


class NotebookError(NbexportError):
    """A notebook could not be run: unknown parameter, missing file, or a cell that failed."""


class ProtocolError(NbexportError):
    """The peer broke the protocol: the only safe reaction is to close the connection."""


class OptionError(NbexportError):
    """An NBD option is refused; negotiation goes on.

    Args:
        reply: the option reply type, one of the ``NBD_REP_ERR_*`` values.
        message: the text sent to the client.
    """

    def __init__(self, reply: int, message: str) -> None:
        super().__init__(message)
        self.reply = reply
        self.message = message


class RequestError(NbexportError):
    """An NBD request fails; the connection goes on.

    Args:
        errno: the error number of the NBD protocol (EPERM 1, EIO 5, EINVAL 22, ...).
        message: the text sent to the client where the reply form can carry one.
    """

    def __init__(self, errno: int, message: str) -> None:
        super().__init__(message)
        self.errno = errno
        self.message = message


class CommandError(NbexportError):
    """A QMP command is answered with an error object; the session goes on.

    Args:
        desc: the human-readable ``desc`` member.
        error_class: the ``class`` member, ``GenericError`` unless the protocol says otherwise.
    """

    def __init__(self, desc: str, *, error_class: str = "GenericError") -> None:
        super().__init__(desc)
        self.desc = desc
        self.error_class = error_class
