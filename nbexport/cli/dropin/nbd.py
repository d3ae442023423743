"""``nbexport-nbd``: qemu-nbd's command line, messages and exit statuses.

What is asked for is checked in qemu-nbd's order, so that of several mistakes the same one is told.
Little is imported before it is known what to do: ``--version`` and ``--help`` are looked at by
scripts that start many programs.

Source: qemu-nbd(8).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from nbexport.cli.dropin.getopt import GetoptError, Parser
from nbexport.cli.dropin.nbd_options import OPTIONS
from nbexport.cli.dropin.stop import StopError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbexport.emulator.objects import Objects

RELEASE = "7.2.22"
STRING_MAX = 4096
"""The NBD protocol's limit for names and descriptions, in bytes."""
PORT = "10809"

_CACHE_MODES = {"none", "off", "writeback", "writethrough", "directsync", "unsafe"}
_AIO_MODES = {"threads", "native", "io_uring"}
_DISCARD_MODES = {"ignore": False, "off": False, "unmap": True, "on": True}
_DETECT_MODES = {"off", "on", "unmap"}
_SNAPSHOT_OPTIONS = "snapshot."


class Wanted:
    """What a command line asks for.

    Args:
        program: how the program was called.
    """

    def __init__(self, program: str) -> None:
        self.program = program
        self.operands: list[str] = []
        self.bind: str | None = None
        self.port: str | None = None
        self.socket: str | None = None
        self.offset = 0
        self.read_only = False
        self.allocation_depth = False
        self.bitmaps: list[str] = []
        self.device: str | None = None
        self.disconnect = False
        self.lists = False
        self.snapshot = False
        self.load: str | None = None
        self.load_id: str | None = None
        self.load_name: str | None = None
        self.cache: str | None = None
        self.aio: str | None = None
        self.discard: str | None = None
        self.detect_zeroes = "off"
        self.shared = 1
        self.format: str | None = None
        self.persistent = False
        self.verbose = False
        self.export_name: str | None = None
        self.description: str | None = None
        self.tls_creds: str | None = None
        self.tls_hostname: str | None = None
        self.tls_authz: str | None = None
        self.image_opts = False
        self.fork = False
        self.pid_file: str | None = None
        self.selinux_label: str | None = None
        self.handshake_limit = 10
        self.objects: Objects | None = None
        self.activated = False

    @property
    def unmaps(self) -> bool:
        """Whether trimming gives storage back."""
        return _DISCARD_MODES[self.discard or "ignore"]

    @property
    def loads(self) -> bool:
        """Whether an internal snapshot is asked for."""
        return self.load is not None or self.load_id is not None or self.load_name is not None

    @property
    def name(self) -> str:
        """The program's name before messages."""
        return self.program.rpartition("/")[2]

    def warn(self, text: str) -> None:
        """Print a warning; one that begins in capitals stands for itself."""
        head = "" if text.startswith("WARNING") else f"{self.name}: "
        print(f"{head}{text}", file=sys.stderr, flush=True)  # noqa: T201

    def take(self, option: str, value: str) -> None:
        """Take an option.

        Raises:
            StopError: its value is wrong.
            SystemExit: it is all that the program had to do.
        """
        handler = getattr(self, "_take_" + option.replace("-", "_"), None)
        if handler is not None:
            handler(value)
        elif option in _FLAGS:
            setattr(self, _FLAGS[option], True)
        else:
            setattr(self, _TEXTS[option], value)

    def _take_help(self, _: str) -> NoReturn:
        sys.stdout.write(usage(self.program))
        raise SystemExit(0)

    def _take_version(self, _: str) -> NoReturn:
        from nbexport import __version__  # noqa: PLC0415 - nobody else wants it

        sys.stdout.write(
            f"{self.program} {RELEASE} (nbexport {__version__})\n"
            "A stand-in for QEMU's program of this name: Apache-2.0, without any warranty.\n"
        )
        raise SystemExit(0)

    def _take_nocache(self, _: str) -> None:
        self._take_cache("none")

    def _take_cache(self, mode: str) -> None:
        if self.cache is not None:
            raise StopError("-n and --cache can only be specified once")
        if mode not in _CACHE_MODES:
            raise StopError(f"Invalid cache mode `{mode}'")
        self.cache = mode

    def _take_aio(self, mode: str) -> None:
        if self.aio is not None:
            raise StopError("--aio can only be specified once")
        if mode not in _AIO_MODES:
            raise StopError(f"Invalid aio mode '{mode}'")
        self.aio = mode

    def _take_discard(self, mode: str) -> None:
        if self.discard is not None:
            raise StopError("--discard can only be specified once")
        if mode not in _DISCARD_MODES:
            raise StopError(f"Invalid discard mode `{mode}'")
        self.discard = mode

    def _take_detect_zeroes(self, mode: str) -> None:
        if mode not in _DETECT_MODES:
            raise StopError(f"Failed to parse detect_zeroes mode: invalid parameter value: {mode}")
        if mode == "unmap" and not self.unmaps:
            raise StopError(
                "setting detect-zeroes to unmap is not allowed without setting discard operation "
                "to unmap"
            )
        self.detect_zeroes = mode

    def _take_offset(self, text: str) -> None:
        from nbexport.emulator.numbers import parse_uint64  # noqa: PLC0415

        offset = parse_uint64(text)
        if offset is None:
            raise StopError(f"Invalid offset '{text}'")
        self.offset = offset

    def _take_load_snapshot(self, text: str) -> None:
        self.read_only = True
        if not text.startswith(_SNAPSHOT_OPTIONS):
            self.load = text
            return
        from nbexport.emulator.imageopts import split_options  # noqa: PLC0415

        for name, value in split_options(text, self.warn, None).items():
            if name not in {"snapshot.id", "snapshot.name"}:
                self.warn(f"Invalid parameter '{name}'")
                raise StopError(f"Failed in parsing snapshot param `{text}'")
            if name == "snapshot.id":
                self.load_id = value
            else:
                self.load_name = value

    def _take_bitmap(self, name: str) -> None:
        self.bitmaps.insert(0, name)

    def _take_socket(self, path: str) -> None:
        self.socket = path
        if not path.startswith("/"):
            raise StopError("socket path must be absolute")

    def _take_shared(self, text: str) -> None:
        from nbexport.emulator.numbers import parse_int32  # noqa: PLC0415

        number = parse_int32(text)
        if number is None or number < 0:
            raise StopError(f"Invalid shared device number '{text}'")
        self.shared = number

    def _take_handshake_limit(self, text: str) -> None:
        from nbexport.emulator.numbers import parse_int32  # noqa: PLC0415

        number = parse_int32(text)
        if number is None or number < 0:
            raise StopError(f"Invalid handshake limit '{text}'")
        self.handshake_limit = number

    def _take_export_name(self, name: str) -> None:
        self.export_name = name
        if len(os.fsencode(name)) > STRING_MAX:
            raise StopError(f"export name '{name}' too long")

    def _take_description(self, text: str) -> None:
        self.description = text
        if len(os.fsencode(text)) > STRING_MAX:
            raise StopError(f"export description '{text}' too long")

    def _take_object(self, text: str) -> None:
        from nbexport.cli.dropin.objects import make_object  # noqa: PLC0415

        self.objects = make_object(text, self.objects, RELEASE)

    def _take_trace(self, text: str) -> None:
        from nbexport.cli.dropin.tracing import check_trace  # noqa: PLC0415

        check_trace(text)


_FLAGS = {
    "allocation-depth": "allocation_depth", "disconnect": "disconnect", "fork": "fork",
    "image-opts": "image_opts", "list": "lists", "persistent": "persistent",
    "read-only": "read_only", "snapshot": "snapshot", "verbose": "verbose",
}  # fmt: skip
_TEXTS = {
    "bind": "bind", "connect": "device", "format": "format", "pid-file": "pid_file",
    "port": "port", "selinux-label": "selinux_label", "tls-authz": "tls_authz",
    "tls-creds": "tls_creds", "tls-hostname": "tls_hostname",
}  # fmt: skip


def usage(program: str) -> str:
    """Return the help."""
    lines = [f"Usage: {program} [OPTIONS] FILE", f"  or:  {program} -L [OPTIONS]"]
    lines.append("Export a disk image over NBD with the command line of QEMU's program.")
    groups: dict[str, list[str]] = {"": []}
    for option in OPTIONS:
        shown = f"--{option.name}" + (f"={option.value}" if option.value else "")
        head = f"  -{option.short}, {shown}" if option.short else f"      {shown}"
        rows = groups.setdefault(option.group, [])
        if len(head) > 27:  # as far as the summaries' column
            rows.append(head)
            head = ""
        rows.append(f"{head:<28}{option.summary}")
    for group, rows in groups.items():
        lines += ["", *([f"{group}:"] if group else []), *rows]
    return "\n".join(lines) + "\n"


def check(wanted: Wanted, activated: int) -> None:
    """Check what was asked for as a whole, in qemu-nbd's order.

    Args:
        wanted: all options.
        activated: sockets that a service manager handed over.

    Raises:
        StopError: it does not go together.
    """
    if wanted.lists:
        if wanted.operands:
            raise StopError("List mode is incompatible with a file name")
        if (
            wanted.export_name is not None or wanted.description is not None or wanted.offset
            or wanted.device is not None or wanted.disconnect or wanted.format is not None
            or wanted.load is not None or wanted.bitmaps or wanted.allocation_depth
            or wanted.aio is not None or wanted.discard is not None or wanted.cache is not None
        ):  # fmt: skip
            raise StopError("List mode is incompatible with per-device settings")
        if wanted.fork:
            raise StopError("List mode is incompatible with forking")
    elif len(wanted.operands) != 1:
        hint = f"Try `{wanted.program} --help' for more information."
        raise StopError("Invalid number of arguments", hint)
    if activated:
        _check_activation(wanted, activated)
    if wanted.tls_creds is not None:
        if wanted.device is not None:
            raise StopError("TLS is not supported with a host device")
        if wanted.tls_authz is not None and wanted.lists:
            raise StopError("TLS authorization is incompatible with export list")
        if wanted.tls_hostname is not None and not wanted.lists:
            raise StopError("TLS hostname is only supported with export list")
        _check_credentials(wanted, wanted.tls_creds)
    elif wanted.tls_authz is not None:
        raise StopError("--tls-authz is not permitted without --tls-creds")
    elif wanted.tls_hostname is not None:
        raise StopError("--tls-hostname is not permitted without --tls-creds")
    if wanted.selinux_label is not None and wanted.socket is None and wanted.device is None:
        raise StopError("--selinux-label is not permitted without --socket")


def _check_activation(wanted: Wanted, activated: int) -> None:
    for given, what in (
        (wanted.device is not None, "NBD device can't be set when using socket activation"),
        (wanted.socket is not None, "Unix socket can't be set when using socket activation"),
        (wanted.bind is not None, "The interface can't be set when using socket activation"),
        (wanted.port is not None, "TCP port number can't be set when using socket activation"),
        (
            wanted.selinux_label is not None,
            "SELinux label can't be set when using socket activation",
        ),
        (wanted.lists, "List mode is incompatible with socket activation"),
    ):
        if given:
            raise StopError(what)
    if activated > 1:
        raise StopError("qemu-nbd does not support socket activation with LISTEN_FDS > 1")


def _check_credentials(wanted: Wanted, identifier: str) -> None:
    from nbexport.errors import CommandError  # noqa: PLC0415

    refusal = f"No TLS credentials with id '{identifier}'"
    if wanted.objects is not None:
        find = wanted.objects.server_credentials
        if wanted.lists:
            find = wanted.objects.client_credentials
        try:
            find(identifier)
        except CommandError as error:
            refusal = str(error)
        else:
            return
    raise StopError(f"Failed to get TLS creds: {refusal}")


def sockets_handed_over() -> int:
    """Return how many sockets a service manager has put behind the standard descriptors.

    Its variables are removed: programs that are started later must not take them for theirs.

    Source: sd_listen_fds(3).
    """
    pid, count = os.environ.get("LISTEN_PID"), os.environ.get("LISTEN_FDS")
    if pid != str(os.getpid()) or count is None or not (count.isascii() and count.isdigit()):
        return 0
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    return min(int(count), 1 << 16)


def called_as(argv: Sequence[str]) -> str:
    """Return the name by which the program was called.

    A script is told its whole path by the kernel even if only its name was typed, so a program that
    the PATH finds under its name is taken to have been called by that.
    """
    path = argv[0]
    name = path.rpartition("/")[2]
    return name if shutil.which(name) == path else path


def run(argv: Sequence[str]) -> int:
    """Do what a command line asks for; return the exit status."""
    wanted = Wanted(called_as(argv))
    try:
        parser = Parser(OPTIONS, argv[1:])
        try:
            for option, value in parser:
                wanted.take(option, value)
        except GetoptError as error:
            print(f"{wanted.program}: {error}", file=sys.stderr)  # noqa: T201
            raise StopError(f"Try `{wanted.program} --help' for more information.") from error
        wanted.operands = parser.operands
        activated = sockets_handed_over()
        check(wanted, activated)
        wanted.activated = activated > 0
        if wanted.lists:
            from nbexport.cli.dropin.nbd_list import print_list  # noqa: PLC0415

            print_list(wanted)
            return 0
        if wanted.disconnect:
            from nbexport.cli.dropin.nbd_device import disconnect  # noqa: PLC0415

            disconnect(wanted.operands[0])
            return 0
        return _serve(wanted)
    except StopError as error:
        report(wanted, error)
        return 1


def _serve(wanted: Wanted) -> int:
    from nbexport.cli.dropin import early  # noqa: PLC0415 - the others need no socket

    with contextlib.ExitStack() as stack:
        if wanted.socket is not None and not (
            wanted.fork or wanted.device is not None or wanted.selinux_label is not None
        ):
            stack.enter_context(early.server(wanted.socket))
        from nbexport.cli.dropin.nbd_serve import serve  # noqa: PLC0415 - takes long

        return serve(wanted)


def report(wanted: Wanted, error: Any) -> None:
    """Print what ended the program."""
    print(f"{wanted.name}: {error.message}", file=sys.stderr)  # noqa: T201
    if error.hint:
        print(error.hint, file=sys.stderr)  # noqa: T201
    sys.stderr.flush()


def main() -> NoReturn:
    """Run the command."""
    try:
        status = run(sys.argv)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    # To take the interpreter down takes longer than all that went before; nothing is left to do.
    sys.stderr.flush()
    os._exit(status)
