"""``nbexport-nbd`` as a server: from the checked command line to the last client's end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import socket
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from nbexport import block, heap, nbd
from nbexport.block import locks
from nbexport.cli.dropin.forking import Daemon, write_pid
from nbexport.cli.dropin.nbd import PORT, RELEASE
from nbexport.cli.dropin.stop import StopError
from nbexport.cli.dropin.writers import WriteThrough, ZeroDetector
from nbexport.emulator import addresses, permissions
from nbexport.emulator.graph import Graph, Node
from nbexport.emulator.imageopts import ImageOpener, split_options
from nbexport.emulator.nbd_exports import find_bitmap, make_export, use
from nbexport.emulator.overlay import put_overlay
from nbexport.emulator.release import Release
from nbexport.errors import CommandError, FormatError, NbexportError
from nbexport.listening import UNIX_PATH_MAX
from nbexport.units import SECTOR_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbexport.cli.dropin.nbd import Wanted

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_FIRST_FD = 3
_DEFAULT_SOCKET = "/var/lock/qemu-nbd-{}"
_DEVICE_SECONDS = 5.0
"""How long the end waits for the kernel to let go of the device."""
_WRITE_THROUGH = {"writethrough", "directsync"}
_DIRECT = {"none", "off", "directsync"}


@dataclass
class _Process:
    """What an export needs of the process."""

    release: Release
    nbd_max_connections: int
    graph: Graph = field(default_factory=Graph)


def serve(wanted: Wanted) -> int:
    """Serve an image until the last client has left or a signal comes; return the exit status.

    Raises:
        StopError: it cannot be served.
    """
    daemon = None
    if wanted.fork or (wanted.device is not None and not wanted.verbose):
        daemon = Daemon(talks=wanted.verbose)
        status = daemon.fork()
        if status is not None:
            return status
    heap.share()
    try:
        return asyncio.run(_Server(wanted, daemon).run())
    except (NbexportError, OSError) as error:
        head, _, hint = str(error).partition("\n")
        raise StopError(head, hint) from error


class _Server:
    """One export of one image.

    Args:
        wanted: the command line.
        daemon: tells the process that was called that all is well; None if that is this one.
    """

    def __init__(self, wanted: Wanted, daemon: Daemon | None) -> None:
        self._wanted = wanted
        self._daemon = daemon
        self._process = _Process(Release.parse(RELEASE), wanted.shared)
        self._stop = asyncio.Event()
        self._status = 0
        self._device_work: asyncio.Future[None] | None = None
        if wanted.device is not None and wanted.socket is None:
            wanted.socket = _DEFAULT_SOCKET.format(wanted.device.rpartition("/")[2])

    async def run(self) -> int:
        """Serve, and return the exit status.

        Raises:
            StopError: it cannot be served.
        """
        wanted = self._wanted
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._stop.set)
        tls = self._tls()
        server = nbd.NbdServer(
            max_connections=wanted.shared,
            handshake_seconds=wanted.handshake_limit,
            tls=tls,
            on_gone=lambda chosen: self._gone(server, chosen=chosen),
        )
        begun = False
        try:
            await self._listen(server)
            # Nobody is accepted before the next turn of the loop, and then there is an export.
            server.add(self._export(self._open()))
            await self._ready(loop)
            begun = True
            await self._stop.wait()
        finally:
            self._process.graph.lift_limits()
            # One that could not begin leaves its socket's file where it is, as QEMU's does.
            await server.close(keep_files=not begun)
            if self._device_work is not None:
                # Its client is gone; what the kernel said of the device decides the status.
                await asyncio.wait({self._device_work}, timeout=_DEVICE_SECONDS)
            self._close()
            for number in _SIGNALS:  # all is done: another one has nothing to end
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)
        return self._status

    def _gone(self, server: nbd.NbdServer, *, chosen: bool) -> None:
        """End with the last client; who only looked around does not count."""
        if chosen and server.is_idle and not self._wanted.persistent:
            self._stop.set()

    async def _ready(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell everybody who waits for it that clients can come."""
        wanted = self._wanted
        if wanted.device is not None:
            work = loop.run_in_executor(None, self._attach, wanted.device, loop)
            work.add_done_callback(lambda _: self._stop.set())
            self._device_work = work
        if wanted.pid_file is not None:
            write_pid(wanted.pid_file)
        os.chdir("/")  # no file system is to be held by a server that runs for long
        if self._daemon is not None and wanted.fork:
            self._daemon.ready()

    def _attach(self, device: str, loop: asyncio.AbstractEventLoop) -> None:
        from nbexport.cli.dropin.nbd_device import attach  # noqa: PLC0415 - few have a device

        assert self._wanted.socket is not None

        def ready() -> None:
            if self._daemon is not None:
                loop.call_soon_threadsafe(self._daemon.ready)
            else:
                text = f"NBD device {device} is now connected to {self._wanted.operands[0]}"
                print(text, file=sys.stderr)  # noqa: T201

        try:
            attach(device, self._wanted.socket, ready)
        except StopError as error:
            print(f"{self._wanted.name}: {error.message}", file=sys.stderr)  # noqa: T201
            self._status = 1

    # Where clients come

    async def _listen(self, server: nbd.NbdServer) -> None:
        wanted = self._wanted
        if wanted.activated:
            server.listen_on(_inherited())
            return
        address: dict[str, Any]
        if wanted.socket is not None:
            address = {"type": "unix", "data": {"path": wanted.socket}}
            if len(os.fsencode(wanted.socket)) > UNIX_PATH_MAX:
                raise StopError(
                    f"UNIX socket path '{wanted.socket}' is too long",
                    f"Path must be less than {UNIX_PATH_MAX} bytes",
                )
        else:
            host, port = wanted.bind or "0.0.0.0", wanted.port or PORT  # noqa: S104 - qemu-nbd's
            address = {"type": "inet", "data": {"host": host, "port": port}}
        with _labelled(wanted.selinux_label):
            await addresses.listen(server, address, passes_files=False)

    def _tls(self) -> Any:
        wanted = self._wanted
        if wanted.tls_creds is None:
            return None
        assert wanted.objects is not None
        rules = wanted.tls_authz
        allow = None if rules is None else wanted.objects.authorizer(rules)
        return wanted.objects.server_credentials(wanted.tls_creds).for_server(allow)

    # What they see

    def _open(self) -> Node:
        wanted = self._wanted
        process = self._process
        name = wanted.operands[0]
        writable = not wanted.read_only
        if wanted.image_opts and wanted.format is not None:
            raise StopError("--image-opts and -f are mutually exclusive")
        opener = ImageOpener(process.release, process.graph, wanted.objects, wanted.warn)
        options: dict[str, Any] = {}
        filename: str | None = name
        if wanted.image_opts:
            options, filename = dict(split_options(name, wanted.warn)), None
        elif wanted.format is not None:
            options["driver"] = wanted.format
        defaults = {
            "discard": "unmap" if wanted.unmaps else "ignore",
            "cache.direct": wanted.cache in _DIRECT,
            "cache.no-flush": wanted.cache == "unsafe",
        }
        options = {key: value for key, value in defaults.items() if key not in options} | options
        over = None
        if wanted.snapshot:
            over = functools.partial(put_overlay, writable=writable, unmap=wanted.unmaps)
        try:
            node = opener.open(filename, options, writable=writable, aio=wanted.aio, over=over)
        except CommandError as error:
            raise StopError(*_split(f"Failed to blk_new_open '{name}': {error}")) from error
        if wanted.offset:
            node = opener.part(node, wanted.offset, writable=writable, over=over)
        if wanted.loads:
            self._load_snapshot(node)
        return node

    def _load_snapshot(self, node: Node) -> None:
        wanted = self._wanted
        disk = node.block
        if not isinstance(disk, block.Qcow2Node):
            raise StopError(
                f"Failed to load snapshot: Block format '{disk.driver}' used by device '' does not "
                "support temporarily loading internal snapshots"
            )
        name = wanted.load
        if name is None:
            name = next(
                (
                    each.id
                    for each in disk.snapshots
                    if wanted.load_id in {None, each.id} and wanted.load_name in {None, each.name}
                ),
                None,
            )
        if name is None or not any(name in {each.id, each.name} for each in disk.snapshots):
            raise StopError("Failed to load snapshot: Can't find snapshot")
        try:
            disk.load_snapshot(name)
        except FormatError as error:
            raise StopError(f"Failed to load snapshot: {error.message}") from error

    def _export(self, node: Node) -> nbd.Export:
        wanted, process = self._wanted, self._process
        writable = not wanted.read_only
        use(process, node, permissions.export_use(writable=writable))
        locks.keep_length(node.block)
        bitmaps = [
            (name, find_bitmap(process, node, name, writable=writable)) for name in wanted.bitmaps
        ]
        arguments: dict[str, Any] = {"allocation-depth": wanted.allocation_depth}
        if wanted.description is not None:
            arguments["description"] = wanted.description
        export = make_export(
            process, node, wanted.export_name or "", arguments, bitmaps, writable=writable
        )
        writer = export.writer
        if writer is not None and wanted.cache in _WRITE_THROUGH:
            writer = WriteThrough(writer)
        if writer is not None and wanted.detect_zeroes != "off":
            # Where the host's cache is passed by, nothing smaller than a sector is zeroed.
            alignment = SECTOR_SIZE if wanted.cache in _DIRECT else 1
            unmap = wanted.detect_zeroes == "unmap"
            writer = ZeroDetector(writer, unmap=unmap, alignment=alignment)
        return export if writer is export.writer else replace(export, writer=writer)

    def _close(self) -> None:
        for node in reversed(self._process.graph.nodes.values()):
            try:
                node.close()
            except (FormatError, OSError) as error:
                print(f"{self._wanted.name}: {error}", file=sys.stderr)  # noqa: T201


@contextlib.contextmanager
def _labelled(label: str | None) -> Iterator[None]:
    """Let the kernel give a label to the sockets that this thread makes meanwhile.

    Raises:
        StopError: it does not; most often there is no SELinux.
    """
    if label is None:
        yield
        return
    try:
        _next_label(label.encode("utf-8", "surrogateescape") + b"\0")
    except OSError as error:
        raise StopError(
            f"Cannot set SELinux socket create context to {label}: {error.strerror}"
        ) from error
    try:
        yield
    finally:
        _next_label(b"")


def _next_label(label: bytes) -> None:
    fd = os.open("/proc/thread-self/attr/sockcreate", os.O_RDWR | os.O_CLOEXEC)
    try:
        os.write(fd, label)
    finally:
        os.close(fd)


def _split(text: str) -> tuple[str, str]:
    head, _, hint = text.partition("\n")
    return head, hint


def _inherited() -> socket.socket:
    """Return the socket that a service manager handed over.

    Raises:
        StopError: it is none.
    """
    try:
        found = socket.socket(fileno=_FIRST_FD)
    except OSError as error:
        raise StopError(
            "Failed to use socket activation: Unable to query remote socket address: "
            f"{error.strerror}"
        ) from error
    found.set_inheritable(False)
    return found
