"""``nbexport-monitor``: as much of the system emulator's command line as needs no guest.

As in QEMU the whole command line is read first. Then what it describes is made: objects, character
devices, block nodes and drives, monitors.

Source: qemu(1); statuses and texts were compared with QEMU 7.2 and ``-M none``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from nbexport.cli.dropin.getopt import Word
from nbexport.cli.dropin.hosting import (
    Background,
    Reporter,
    StopError,
    hold_signals,
    leave,
    print_version,
    program_name,
)
from nbexport.cli.dropin.system_options import BY_NAME, OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from nbexport.cli.dropin.running import Host
    from nbexport.qmp import CompatPolicy

PROGRAM = "qemu-system-x86_64"


@dataclass
class Wanted:
    """What a command line asks for.

    Attributes:
        machine: the kind of board, None if none is named.
        bare: whether ``-nodefaults`` is given.
        stopped: whether the machine does not run at first.
        temporary: whether drives keep what is written no longer than the process lasts.
        on_console: whether ``-nographic`` is given.
        background: whether to leave the caller.
        pid_file: where to write the process's id.
        policy: what is done about deprecated and unstable interfaces.
        objects: places and descriptions, checked.
        chardevs: places and options of character devices.
        blocks: places, kinds and options of nodes and drives.
        monitors: places and options of monitors.
        tests: places and ids of the devices of ``-qtest``.
        devices: places and options of devices, and whether these are JSON.
    """

    machine: str | None = None
    bare: bool = False
    stopped: bool = False
    temporary: bool = False
    on_console: bool = False
    background: bool = False
    pid_file: str = ""
    policy: CompatPolicy | None = None
    objects: list[tuple[str, str]] = field(default_factory=list)
    chardevs: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    blocks: list[tuple[str, str, str]] = field(default_factory=list)
    monitors: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    tests: list[tuple[str, str]] = field(default_factory=list)
    devices: list[tuple[str, dict[str, Any], bool]] = field(default_factory=list)


def main(words: Sequence[str] | None = None) -> None:
    """Run the command."""
    reporter = Reporter(program_name(PROGRAM))
    try:
        _main(sys.argv[1:] if words is None else words, reporter)
    except StopError as stop:
        leave(stop.status)
    leave(0)


def _main(words: Sequence[str], reporter: Reporter) -> None:
    given = list(_split(words, reporter))
    for word in given:
        # Whoever asks for these gets them unless something before is wrong.
        if word.name in {"h", "help"}:
            _print_help()
            return
        if word.name == "version":
            print_version("QEMU emulator", reporter)
            return
        if word.name not in {"S", "nodefaults", "nographic"}:
            break
    hold_signals()
    from nbexport.cli.dropin import early  # noqa: PLC0415 - whoever asks for help needs no socket

    with early.monitors((word.name, word.value) for word in given):
        _start(given, reporter)


def _start(given: Sequence[Word], reporter: Reporter) -> None:
    from nbexport.cli.dropin.system_reading import Reader  # noqa: PLC0415 - imports the emulator

    wanted = Wanted()
    Reader(
        wanted, reporter, on_help=_print_help, on_version=partial(print_version, "QEMU emulator")
    ).read(given)
    behind = Background() if wanted.background else None
    from nbexport.cli.dropin import running  # noqa: PLC0415 - as above

    async def act(host: Host) -> None:
        await _make(host, wanted)

    running.run("qemu-system", reporter, act, policy=wanted.policy, behind=behind)


def _split(words: Sequence[str], reporter: Reporter) -> Iterator[Word]:
    """Yield the options and operands of a command line.

    Raises:
        StopError: there is no such option, or its value is missing.
    """
    left = list(words)
    found = []
    while left:
        word = left.pop(0)
        if not word.startswith("-") or word == "-":
            found.append(Word(word, "", word))
            continue
        name = word.removeprefix("-").removeprefix("-")
        option = BY_NAME.get(name)
        reporter.place = word
        if option is None:
            raise reporter.fail("invalid option")
        value = ""
        if option.value:
            if not left:
                raise reporter.fail("requires an argument")
            value = left.pop(0)
        found.append(Word(f"{word} {value}" if option.value else word, name, value))
    reporter.place = ""
    yield from found


def _print_help() -> None:
    lines = [f"usage: {PROGRAM} [options]", ""]
    for group in dict.fromkeys(option.group for option in OPTIONS if option.group):
        lines.append(f"{group}:")
        lines += [
            f"  {f'-{option.name} {option.value}'.rstrip():20}  {option.summary}"
            for option in OPTIONS
            if option.group == group
        ]
        lines.append("")
    lines.append("The environment variable NBEXPORT_RELEASE names the release to behave as.")
    sys.stdout.write("\n".join(lines) + "\n")


async def _make(host: Host, wanted: Wanted) -> None:
    """Make what the command line describes, in QEMU's order."""
    from nbexport.cli.dropin.qtest import serve  # noqa: PLC0415 - late
    from nbexport.emulator import plugging  # noqa: PLC0415 - late
    from nbexport.emulator.board import Board  # noqa: PLC0415 - late
    from nbexport.emulator.disks import Drives  # noqa: PLC0415 - late
    from nbexport.emulator.optionlist import Group  # noqa: PLC0415 - late

    host.machine.board = Board(wanted.machine or "pc")
    host.machine.running = host.machine.started = not wanted.stopped
    if wanted.pid_file:
        host.write_pid(wanted.pid_file)
    _check_machine(wanted, host.reporter)
    for place, text in wanted.objects:
        with host.at(place):
            await host.startup.object(text)
    for place, options in wanted.chardevs:
        with host.at(place):
            await host.startup.chardev(options)
    drives = Drives(host.machine, _warn)
    group = Group("drive", None)
    for place, kind, text in wanted.blocks:
        with host.at(place):
            if kind == "blockdev":
                await host.startup.blockdev(text)
            else:
                options = group.parse(text)
                if wanted.temporary:
                    options.setdefault("snapshot", "on")
                await drives.add(options, place)
    for drive in drives.made:
        with host.at(drive.where):
            await drives.connect_board(drive)
    for place, given, typed in wanted.devices:
        with host.at(place):
            await plugging.add(host.machine, given, typed=typed)
    for drive in drives.made:
        with host.at(drive.where):
            await drives.connect_virtio(drive)
    host.machine.board.ready = True
    for place, identifier in wanted.tests:
        with host.at(place):
            host.spawn(serve(host.devices.take(identifier)))
    for place, options in wanted.monitors:
        with host.at(place):
            switch = options.get("pretty")
            host.startup.add_monitor(
                options.get("chardev", ""),
                mode=options.get("mode"),
                pretty=None if switch is None else switch in {"on", "yes", "true", "y"},
            )


def _check_machine(wanted: Wanted, reporter: Reporter) -> None:
    if wanted.machine != "none" and not wanted.bare:
        raise reporter.fail(
            "the devices that a machine has by default are not supported by this emulator\n"
            "Use -nodefaults, or -machine none"
        )
    if wanted.on_console and not wanted.bare:
        raise reporter.fail(
            "-nographic: a monitor for humans is not supported by this emulator\nUse -nodefaults"
        )


def _warn(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
