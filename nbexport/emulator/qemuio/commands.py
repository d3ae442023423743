"""The commands of ``qemu-io``: a table, and what each does."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nbexport import block
from nbexport.emulator import describe
from nbexport.emulator.qemuio import words
from nbexport.emulator.qemuio.request import (
    REQUEST_MAX,
    Change,
    Target,
    discard,
    read,
    reason,
)
from nbexport.emulator.qemuio.words import Line, RefusedError
from nbexport.errors import CommandError
from nbexport.units import SECTOR_SIZE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

_FILL: Final = 0xCD
"""What is written unless something else is said."""


@dataclass(frozen=True)
class Verb:
    """A command.

    Attributes:
        name: its name.
        act: does it.
        arguments: what it takes, for its usage.
        summary: what it does, for its usage.
        letters: its switches.
        count: the fewest and the most words behind its name; no most is None.
        alias: another name.
        writes: whether the disk must be writable.
    """

    name: str
    act: Callable[[Target, Verb, Line], Awaitable[None]]
    arguments: str
    summary: str
    letters: str = ""
    count: tuple[int, int | None] = (0, 0)
    alias: str = ""
    writes: bool = False

    @property
    def usage(self) -> str:
        """One line about it."""
        return f"{self.name} {self.arguments} -- {self.summary}\n"


async def run(target: Target, command: str) -> None:
    """Run a command; what comes of it is printed.

    Args:
        target: the disk.
        command: its words, separated by spaces.
    """
    given = [word for word in command.split(" ") if word]
    if not given:
        return
    verb = _BY_NAME.get(given[0])
    if verb is None:
        target.complain(f'command "{given[0]}" not found\n')
        return
    if not _count_is_right(target, verb, given):
        return
    if verb.writes and target.disk.node is not None:
        try:
            target.permit()
        except CommandError as error:
            target.tell(f"{error}\n")
            return
    try:
        await verb.act(target, verb, words.split(given, verb.letters, target.complain))
    except RefusedError as error:
        target.write(str(error) or verb.usage)


def _count_is_right(target: Target, verb: Verb, given: Sequence[str]) -> bool:
    fewest, most = verb.count
    count = len(given) - 1
    if count >= fewest and (most is None or count <= most):
        return True
    if most is None:
        wanted = f"at least {fewest} arguments"
    elif most == fewest:
        wanted = f"{fewest} arguments"
    else:
        wanted = f"between {fewest} and {most} arguments"
    target.complain(f"bad argument count {count} to {given[0]}, expected {wanted}\n")
    return False


# reading


async def _read(target: Target, verb: Verb, line: Line) -> None:
    switches = line.switches
    skip = words.number(switches["s"]) if "s" in switches else 0
    expected = words.pattern(switches["P"]) if "P" in switches else None
    checked = words.number(switches["l"]) if "l" in switches else None
    if len(line.operands) != 2:
        raise RefusedError
    offset, length = words.number(line.operands[0]), words.number(line.operands[1])
    _check_length(length, line.operands[1])
    if expected is None and ("l" in switches or "s" in switches):
        raise RefusedError
    checked = length - skip if checked is None else checked
    if checked < 0 or checked + skip > length:
        raise RefusedError("pattern verification range exceeds end of read data\n")
    if "b" in switches:
        _check_sectors(offset, length)
        target.write("read failed: Operation not supported\n")
        return
    await _show(target, verb.name, line, offset, length, (expected, skip, checked))


async def _readv(target: Target, verb: Verb, line: Line) -> None:
    expected = words.pattern(line.switches["P"]) if "P" in line.switches else None
    offset, lengths = _vector(line)
    length = sum(lengths)
    await _show(target, verb.name, line, offset, length, (expected, 0, length))


async def _show(
    target: Target,
    name: str,
    line: Line,
    offset: int,
    length: int,
    check: tuple[int | None, int, int],
) -> None:
    """Read, compare what was read with what is expected, and print it."""
    try:
        node = target.node()
        data, seconds = await target.timed(lambda: read(node, offset, length))
    except OSError as error:
        target.write(f"{name} failed: {reason(error)}\n")
        return
    expected, skip, checked = check
    if expected is not None and data[skip : skip + checked] != bytes([expected]) * checked:
        target.write(f"Pattern verification failed at offset {offset + skip}, {checked} bytes\n")
    if "q" in line.switches:
        return
    if "v" in line.switches:
        target.write(words.dump(data, offset))
    target.write(words.report("read", seconds, offset, length, parsable="C" in line.switches))


async def _aio_read(target: Target, verb: Verb, line: Line) -> None:
    del verb
    if "P" in line.switches:
        words.pattern(line.switches["P"])
    if "i" in line.switches:
        target.write("injecting invalid read request\n")
        return
    expected = words.pattern(line.switches["P"]) if "P" in line.switches else None
    offset, lengths = _vector(line)
    length = sum(lengths)
    _begin(target, _show(target, "readv", line, offset, length, (expected, 0, length)))


# writing


async def _write(target: Target, verb: Verb, line: Line) -> None:
    switches = line.switches
    fill = words.pattern(switches["P"]) if "P" in switches else _FILL
    if len(line.operands) != 2:
        raise RefusedError
    _check_switches(switches.keys())
    offset, length = words.number(line.operands[0]), words.number(line.operands[1])
    if length > REQUEST_MAX and "n" not in switches:
        raise RefusedError(
            f"length cannot exceed {REQUEST_MAX} without -n, given {line.operands[1]}\n"
        )
    if switches.keys() & {"b", "c"}:
        _check_sectors(offset, length)
        target.write("write failed: Operation not supported\n")
        return
    data = None
    if "s" in switches:
        data = _from_file(target, switches["s"], length)
        if data is None:
            return
    elif "z" not in switches:
        data = bytes([fill]) * length
    change = Change(
        offset, length, data, durable="f" in switches, unmap="u" in switches, quick="n" in switches
    )
    await _apply(target, verb.name, line, change)


def _check_switches(given: Any) -> None:
    if {"b", "z"} <= given:
        raise RefusedError("-b and -z cannot be specified at the same time\n")
    if "f" in given and given & {"b", "c"}:
        raise RefusedError("-f and -b or -c cannot be specified at the same time\n")
    for letter in ("n", "u"):
        if letter in given and "z" not in given:
            raise RefusedError(f"-{letter} requires -z to be specified\n")
    if len(given & {"z", "P", "s"}) > 1:
        raise RefusedError("Only one of -z, -P, and -s can be specified at the same time\n")


def _from_file(target: Target, name: str, length: int) -> bytes | None:
    """Return a file's content, over and over, or None if there is none."""
    try:
        with Path(name).open("rb") as file:
            found = file.read(length)
    except OSError as error:
        target.complain(f"{name}: {reason(error)}\n")
        return None
    if not found:
        target.complain(f"{name}: file is empty\n")
        return None
    return (found * (length // len(found) + 1))[:length]


async def _writev(target: Target, verb: Verb, line: Line) -> None:
    fill = words.pattern(line.switches["P"]) if "P" in line.switches else _FILL
    offset, lengths = _vector(line)
    data = bytes([fill]) * sum(lengths)
    change = Change(offset, len(data), data, durable="f" in line.switches)
    await _apply(target, verb.name, line, change)


async def _apply(target: Target, name: str, line: Line, change: Change) -> None:
    try:
        node = target.node()
        _, seconds = await target.timed(lambda: change.apply(node))
    except OSError as error:
        target.write(f"{name} failed: {reason(error)}\n")
        return
    if "q" not in line.switches:
        parsable = "C" in line.switches
        target.write(
            words.report("wrote", seconds, change.offset, change.length, parsable=parsable)
        )


async def _aio_write(target: Target, verb: Verb, line: Line) -> None:
    switches = line.switches
    fill = words.pattern(switches["P"]) if "P" in switches else _FILL
    if "i" in switches:
        target.write("injecting invalid write request\n")
        return
    if len(line.operands) < 2:
        raise RefusedError
    if "z" in switches and len(line.operands) > 2:
        raise RefusedError("-z supports only a single length parameter\n")
    if "u" in switches and "z" not in switches:
        raise RefusedError("-u requires -z to be specified\n")
    if "z" in switches:
        offset, length = words.number(line.operands[0]), words.number(line.operands[1])
        change = Change(offset, length, None, durable="f" in switches, unmap="u" in switches)
    else:
        offset, lengths = _vector(line)
        data = bytes([fill]) * sum(lengths)
        change = Change(offset, len(data), data, durable="f" in switches)
    _begin(target, _apply(target, verb.name, line, change))


def _begin(target: Target, work: Any) -> None:
    """Do something while other commands run."""
    task = asyncio.get_running_loop().create_task(work)
    target.disk.begun.add(task)
    target.begun.add(task)
    task.add_done_callback(target.disk.begun.discard)


async def _aio_flush(target: Target, verb: Verb, line: Line) -> None:
    del verb, line
    await target.process.settle_requests()


async def _flush(target: Target, verb: Verb, line: Line) -> None:
    del verb, line
    if target.disk.node is not None:
        disk = target.disk.node.block
        try:
            await target.timed(disk.flush)
        except OSError:
            return  # nothing is said of it


async def _discard(target: Target, verb: Verb, line: Line) -> None:
    if len(line.operands) != 2:
        raise RefusedError
    offset, length = words.number(line.operands[0]), words.number(line.operands[1])
    _check_length(length, line.operands[1])
    try:
        node = target.node()
        _, seconds = await target.timed(lambda: discard(node, offset, length))
    except OSError as error:
        target.write(f"{verb.name} failed: {reason(error)}\n")
        return
    if "q" not in line.switches:
        target.write(
            words.report("discard", seconds, offset, length, parsable="C" in line.switches)
        )


def _vector(line: Line) -> tuple[int, list[int]]:
    """Return the offset of a request, and the lengths of its parts."""
    if len(line.operands) < 2:
        raise RefusedError
    offset = words.number(line.operands[0])
    lengths: list[int] = []
    for text in line.operands[1:]:
        length = words.number(text)
        if length > REQUEST_MAX:
            raise RefusedError(f"Argument '{text}' exceeds maximum size {REQUEST_MAX}\n")
        if sum(lengths) > REQUEST_MAX - length:
            raise RefusedError(f"The total number of bytes exceed the maximum size {REQUEST_MAX}\n")
        lengths.append(length)
    return offset, lengths


def _check_length(length: int, text: str) -> None:
    if length > REQUEST_MAX:
        raise RefusedError(f"length cannot exceed {REQUEST_MAX}, given {text}\n")


def _check_sectors(offset: int, length: int) -> None:
    for name, value in (("offset", offset), ("count", length)):
        if value % SECTOR_SIZE:
            raise RefusedError(f"{value} is not a sector-aligned value for '{name}'\n")


# what the disk is like


async def _length(target: Target, verb: Verb, line: Line) -> None:
    del verb, line
    try:
        node = target.node()
    except OSError as error:
        target.write(f"getlength: {reason(error)}\n")
        return
    target.write(f"{words.shown(node.block.size)}\n")


async def _alloc(target: Target, verb: Verb, line: Line) -> None:
    del verb
    offset = words.number(line.operands[0])
    length = words.number(line.operands[1]) if len(line.operands) > 1 else SECTOR_SIZE
    try:
        node = target.node()
        end = min(offset + length, node.block.size)
        depth, _ = await target.timed(lambda: node.block.depth(min(offset, end), end))
    except OSError as error:
        target.write(f"is_allocated failed: {reason(error)}\n")
        return
    allocated = sum(length for _, length, flags in depth if flags == 1)
    target.write(
        f"{allocated}/{max(end - offset, 0)} bytes allocated at offset {words.shown(offset)}\n"
    )


async def _map(target: Target, verb: Verb, line: Line) -> None:
    del verb, line
    try:
        node = target.node()
        depth, _ = await target.timed(node.block.depth)
    except OSError as error:
        target.tell(f"Failed to query image length: {reason(error)}\n")
        return
    runs: list[tuple[int, int, bool]] = []
    for start, length, flags in depth:
        here = flags == 1
        if runs and runs[-1][2] == here:
            runs[-1] = (runs[-1][0], runs[-1][1] + length, here)
        else:
            runs.append((start, length, here))
    for start, length, here in runs:
        target.write(
            f"{words.shown(length)} ({length:#x}) bytes "
            f"{'    allocated' if here else 'not allocated'} at offset {words.shown(start)} "
            f"({start:#x})\n"
        )


async def _info(target: Target, verb: Verb, line: Line) -> None:
    del verb, line
    try:
        disk = target.node().block
    except OSError:
        return
    # What has its data from outside is called twice, and what is no file tells no more.
    target.write(f"format name: {disk.driver}\n" * (2 if disk.file is None else 1))
    if disk.file is None and not isinstance(disk, block.FileNode):
        return
    offset = 0
    if isinstance(disk, block.Qcow2Node):
        # The state of the machine would stand behind what the first table can say.
        header = disk.header
        entries = -(-disk.size // (header.cluster_size * header.l2_entries))
        offset = entries * header.cluster_size * header.l2_entries
    target.write(f"cluster size: {words.shown(disk.cluster_size or 0)}\n")
    target.write(f"vm state offset: {words.shown(offset)}\n")
    if isinstance(disk, block.Qcow2Node):
        target.write("Format specific information:\n")
        target.tell("".join(f"{text}\n" for text in describe.specific(disk)))


async def _sleep(target: Target, verb: Verb, line: Line) -> None:
    del verb
    try:
        milliseconds = int(line.operands[0], 0)
    except ValueError:
        target.write(f"{line.operands[0]} is not a valid number\n")
        return
    start = time.monotonic()
    await asyncio.sleep(max(milliseconds, 0) / 1000 - (time.monotonic() - start))


async def _help(target: Target, verb: Verb, line: Line) -> None:
    del verb
    if not line.operands:
        for each in VERBS:
            target.write(each.usage)
        target.write("\nUse 'help commandname' for extended help.\n")
        return
    found = _BY_NAME.get(line.operands[0])
    if found is None:
        target.write(f"command {line.operands[0]} not found\n")
    else:
        target.write(found.usage)


VERBS: Final = (
    Verb("aio_flush", _aio_flush, "", "waits for requests that were begun"),
    Verb("aio_read", _aio_read, "[-Ciqv] [-P pattern] off len [len..]", "begins to read",
         letters="CP:iqv", count=(2, None)),
    Verb("aio_write", _aio_write, "[-Cfiquz] [-P pattern] off len [len..]", "begins to write",
         letters="CfiqP:uz", count=(2, None), writes=True),
    Verb("alloc", _alloc, "offset [count]", "tells what the image itself has of a range",
         count=(1, 2), alias="a"),
    Verb("discard", _discard, "[-Cq] off len", "gives up a range", letters="Cq", count=(2, None),
         alias="d", writes=True),
    Verb("flush", _flush, "", "makes durable what was written", alias="f"),
    Verb("help", _help, "[command]", "tells of a command, or of all", count=(0, 1), alias="?"),
    Verb("info", _info, "", "tells about the image", alias="i"),
    Verb("length", _length, "", "tells the length", alias="l"),
    Verb("map", _map, "", "tells what the image itself has, and what not"),
    Verb("read", _read, "[-abCqv] [-P pattern [-s off] [-l len]] off len", "reads",
         letters="bCl:pP:qs:v", count=(2, None), alias="r"),
    Verb("readv", _readv, "[-Cqv] [-P pattern] off len [len..]", "reads into several buffers",
         letters="CP:qv", count=(2, None)),
    Verb("sleep", _sleep, "", "waits as many milliseconds", count=(1, 1)),
    Verb("write", _write, "[-bcCfnquz] [-P pattern | -s source_file] off len", "writes",
         letters="bcCfnpP:qs:uz", count=(2, None), alias="w", writes=True),
    Verb("writev", _writev, "[-Cfq] [-P pattern] off len [len..]", "writes several buffers",
         letters="CfqP:", count=(2, None), writes=True),
)  # fmt: skip
"""The commands that there are."""

_BY_NAME: Final = {name: verb for verb in VERBS for name in (verb.name, verb.alias) if name}
