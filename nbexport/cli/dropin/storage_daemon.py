"""``nbexport-storage-daemon``: the command line of qemu-storage-daemon.

Options are acted on in their order, so what one needs has to stand before it. Modules are imported
when they are needed: to tell the version takes none of them.

Source: qemu-storage-daemon(1); statuses and texts were compared with QEMU 7.2.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from nbexport.cli.dropin.getopt import GetoptError, Option, Parser, Word
from nbexport.cli.dropin.hosting import (
    Background,
    Reporter,
    StopError,
    hold_signals,
    leave,
    print_version,
    program_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nbexport.cli.dropin.running import Host

PROGRAM = "qemu-storage-daemon"

OPTIONS = (
    Option("blockdev", "", "OPTIONS", "open a block node", "Options", "differs",
           "drivers raw, qcow2, file, nbd, null-co, null-aio, blkdebug, throttle, copy-on-read, "
           "compress, preallocate, snapshot-access and copy-before-write"),
    Option("chardev", "", "OPTIONS", "open a character device", "Options", "differs",
           "socket (unix, TCP, fd), stdio and null; without TLS, telnet, websocket, log and mux"),
    Option("daemonize", "", "", "go into the background once all is there", "Options"),
    Option("export", "", "OPTIONS", "export a node", "Options", "differs",
           "type nbd; FUSE, vhost-user-blk and vduse-blk are refused by name"),
    Option("help", "h", "", "print this help", "Options", "differs", "in our words"),
    Option("monitor", "", "OPTIONS", "put a QMP monitor on a character device", "Options"),
    Option("nbd-server", "", "OPTIONS", "listen for NBD clients", "Options", "differs",
           "nbd-server-stop leaves a socket that another program has put in its place"),
    Option("object", "", "OPTIONS", "make an object", "Options", "differs",
           "authz-list, authz-simple, iothread, secret, throttle-group, tls-creds-anon, -psk and "
           "-x509"),
    Option("pidfile", "", "PATH", "write the process's id to a file while it runs", "Options"),
    Option("trace", "T", "OPTIONS", "nothing is traced", "Options", "differs",
           "accepted as a hint; events are not known, so that none is missed"),
    Option("version", "V", "", "print the version", "Options", "differs",
           "the first line is QEMU's, with our name in the brackets"),
)  # fmt: skip
"""The options, in the order of QEMU's table: what is read, what the help says, how it compares."""


class _Located(Parser):
    """A parser that tells the words of each option."""

    def located(self) -> Iterator[Word]:
        """Yield options and operands in their order.

        Raises:
            GetoptError: at the first word that is wrong.
        """
        whole = list(self._words)
        told = done = 0
        for name, value in self:
            operands = self.operands[told:]
            for operand in operands:
                yield Word(operand, "", operand)
            told += len(operands)
            end = len(whole) - len(self._words)
            # An option and its value are one word or two; operands stand before them.
            start = max(done + len(operands), end - 2)
            done = end
            yield Word(" ".join(whole[start:end]), name, value)
        for operand in self.operands[told:]:
            yield Word(operand, "", operand)


def main(words: Sequence[str] | None = None) -> None:
    """Run the command."""
    reporter = Reporter(program_name(PROGRAM))
    try:
        _main(sys.argv[1:] if words is None else words, reporter)
    except StopError as stop:
        leave(stop.status)
    leave(0)


def _main(words: Sequence[str], reporter: Reporter) -> None:
    given = []
    background = False
    parser = _Located(OPTIONS, words)
    try:
        for word in parser.located():
            if word.name == "help":
                _print_help()
                return
            if word.name == "version":
                print_version(PROGRAM, reporter)
                return
            background |= word.name == "daemonize"
            given.append(word)
    except GetoptError as error:
        raise reporter.fail(str(error)) from error
    behind = Background() if background else None
    _run(given, reporter, behind)


def _print_help() -> None:
    lines = [
        f"Usage: {PROGRAM} [options]",
        "Serve block nodes to others, as QEMU's daemon does.",
        "",
    ]
    for option in OPTIONS:
        short = f"-{option.short}, " if option.short else "    "
        left = f"  {short}--{option.name} {option.value}".rstrip()
        lines.append(f"{left:28}  {option.summary}")
    lines += [
        "",
        "OPTIONS are name=value,... with dotted names, or a JSON object (but for --chardev);",
        "the environment variable NBEXPORT_RELEASE names the release of QEMU to behave as.",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def _run(given: Sequence[Word], reporter: Reporter, behind: Background | None) -> None:
    hold_signals()
    from nbexport.cli.dropin import early  # noqa: PLC0415 - late, as all here

    with early.monitors((word.name, word.value) for word in given):
        _start(given, reporter, behind)


def _start(given: Sequence[Word], reporter: Reporter, behind: Background | None) -> None:
    from nbexport.cli.dropin import running  # noqa: PLC0415 - late, as all here

    async def act(host: running.Host) -> None:
        pid_file = ""
        for word in given:
            if word.name == "pidfile":
                pid_file = word.value
                continue
            with host.at(word.place):
                await _act(host, word)
        if pid_file:
            host.write_pid(pid_file)

    running.run(PROGRAM, reporter, act, behind=behind)


async def _act(host: Host, word: Word) -> None:
    """Act on one option."""
    from nbexport.emulator import optionlist  # noqa: PLC0415 - late, as all here

    startup = host.startup
    if not word.name:
        raise host.reporter.fail("Unexpected argument")
    if word.name == "blockdev":
        await startup.blockdev(word.value)
    elif word.name == "export":
        await startup.export(word.value)
    elif word.name == "nbd-server":
        await startup.nbd_server(word.value)
    elif word.name == "monitor":
        await startup.monitor(word.value)
    elif word.name == "object":
        if lines := await startup.object(word.value):
            sys.stdout.write("\n".join(lines) + "\n")
            raise StopError(0)
    elif word.name == "chardev":
        await startup.chardev(optionlist.chardevs().parse(word.value))
    elif word.name == "trace" and word.value in {"help", "?"}:
        raise StopError(0)


if __name__ == "__main__":
    main()
