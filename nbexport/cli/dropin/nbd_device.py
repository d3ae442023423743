"""The kernel's NBD client: ``nbexport-nbd --connect`` and ``--disconnect``.

Source: Linux's ``include/uapi/linux/nbd.h``.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from typing import TYPE_CHECKING, Final

from nbexport import nbd
from nbexport.cli.dropin.stop import StopError
from nbexport.errors import NbexportError
from nbexport.nbd import wire

if TYPE_CHECKING:
    from collections.abc import Callable

_SET_SOCK: Final = 0xAB00
_SET_BLKSIZE: Final = 0xAB01
_DO_IT: Final = 0xAB03
_CLEAR_SOCK: Final = 0xAB04
_CLEAR_QUE: Final = 0xAB05
_SET_SIZE_BLOCKS: Final = 0xAB07
_DISCONNECT: Final = 0xAB08
_SET_FLAGS: Final = 0xAB0A
_BLKROSET: Final = 0x125D
_BLOCK: Final = 512
# The kernel's flags are those of the protocol's first sixteen bits.
_KERNEL_FLAGS: Final = 0xFFFF


def disconnect(device: str) -> None:
    """Disconnect a device of the kernel's.

    Raises:
        StopError: it cannot be opened.
    """
    try:
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise StopError(f"Cannot open {device}: {error.strerror}") from error
    try:
        for request in (_CLEAR_QUE, _DISCONNECT, _CLEAR_SOCK):
            _ask_kernel(fd, request)
    finally:
        os.close(fd)
    sys.stdout.write(f"{device} disconnected\n")


def _ask_kernel(fd: int, request: int, value: int = 0) -> bool:
    try:
        fcntl.ioctl(fd, request, value)
    except OSError:
        return False
    return True


def attach(device: str, path: str, on_ready: Callable[[], None]) -> None:
    """Let the kernel be the client of a server until the device is disconnected.

    Args:
        device: the kernel's device.
        path: unix socket of the server.
        on_ready: called when the kernel has taken over.

    Raises:
        StopError: the server or the kernel refuses.
    """
    try:
        client = nbd.Client.connect(nbd.NbdUri(socket=path), contexts=[])
    except NbexportError as error:
        raise StopError(str(error)) from error
    size, flags = client.export_size, client.transmission_flags & ~wire.SEND_DF
    connection = client.detach()
    try:
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        connection.close()
        raise StopError(f"Failed to open {device}: {error.strerror}") from error
    try:
        connection.setblocking(True)  # noqa: FBT003 - the standard library's signature
        try:
            fcntl.ioctl(fd, _SET_SOCK, connection.fileno())
            fcntl.ioctl(fd, _SET_BLKSIZE, _BLOCK)
            fcntl.ioctl(fd, _SET_SIZE_BLOCKS, size // _BLOCK)
        except OSError as error:
            raise StopError(f"Failed to set NBD socket: {error.strerror}") from error
        if not _ask_kernel(fd, _SET_FLAGS, flags & _KERNEL_FLAGS) and flags & wire.READ_ONLY:
            fcntl.ioctl(fd, _BLKROSET, struct.pack("i", 1))
        on_ready()
        _ask_kernel(fd, _DO_IT)  # returns when the device is disconnected
        _ask_kernel(fd, _CLEAR_QUE)
        _ask_kernel(fd, _CLEAR_SOCK)
    finally:
        os.close(fd)
        connection.close()
