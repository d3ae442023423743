"""The language of ``qemu-io``, and what its commands do to a disk."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbexport.block import NullNode
from nbexport.emulator.graph import Backend, Node
from nbexport.emulator.qemuio import Target, run, words
from nbexport.errors import CommandError


class Disk(NullNode):
    """A disk in memory."""

    def __init__(self, size):
        super().__init__(size, writable=True)
        self.content = bytearray(size)

    def _read(self, offset, buffer):
        buffer[:] = self.content[offset : offset + len(buffer)]

    def _write(self, offset, data):
        self.content[offset : offset + len(data)] = data

    def _write_zeroes(self, offset, length, *, unmap, no_fallback):
        self.content[offset : offset + length] = bytes(length)


class Process:
    def __init__(self, disk):
        self.disk = disk

    async def in_thread(self, function, *arguments):
        return await asyncio.to_thread(function, *arguments)

    async def settle_requests(self):
        if self.disk.begun:
            await asyncio.wait(self.disk.begun)


def play(*lines, size=1 << 20, permit=lambda: None, empty=False):
    """Run commands on a disk in memory; what was printed, complained and told, and the disk."""
    block = Disk(size)
    node = Node("n", block, {"driver": "null-co"}, read_only=False)
    disk = Backend("d", None if empty else node)
    printed, complained, told = [], [], []
    target = Target(Process(disk), disk, permit, printed.append, complained.append, told.append)

    async def play_all():
        for line in lines:
            await run(target, line)

    asyncio.run(play_all())
    return "".join(printed), "".join(complained), "".join(told), bytes(block.content)


def test_what_is_written_is_there_and_is_found_again():
    printed, complained, _, content = play(
        "write -q -P 7 10 20", "read -q -P 7 10 20", "read -q -P 8 12 4", "write -qz 12 2"
    )
    assert content[9:32] == b"\0" + b"\7" * 2 + b"\0" * 2 + b"\7" * 16 + b"\0" * 2
    assert printed == "Pattern verification failed at offset 12, 4 bytes\n"
    assert complained == ""


def test_requests_that_were_begun_are_done_when_they_are_waited_for():
    printed, _, _, content = play("aio_write -qP 1 0 4k", "aio_write -qP 2 8k 4k", "aio_flush")
    assert (content[0], content[4096], content[8192]) == (1, 0, 2)
    assert printed == ""


def test_beside_the_disk_there_is_nothing():
    printed, *_ = play("read 1M 1", "write 1M 1", "discard 2M 1")
    assert printed == "".join(f"{verb} failed: Input/output error\n" for verb in
                              ("read", "write", "discard"))  # fmt: skip


def test_an_empty_disk_says_so():
    printed, *_ = play("read 0 1", "length", empty=True)
    assert printed == "read failed: No medium found\ngetlength: No medium found\n"


def test_who_may_not_write_is_told_why():
    def permit():
        raise CommandError("Block node is read-only")

    printed, _, told, content = play("write 0 1", "read -q 0 1", permit=permit)
    assert (printed, told, any(content)) == ("", "Block node is read-only\n", False)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("bogus", 'command "bogus" not found\n'),
        ("read 0", "bad argument count 1 to read, expected at least 2 arguments\n"),
        ("alloc", "bad argument count 0 to alloc, expected between 1 and 2 arguments\n"),
        ("map x", "bad argument count 1 to map, expected 0 arguments\n"),
        ("write -x 0 1", "write: invalid option -- 'x'\n"),
        ("read 0 -P", "read: option requires an argument -- 'P'\n"),
    ],
)
def test_what_is_not_understood_is_complained_of(line, complaint):
    assert play(line)[1] == complaint


def test_a_line_without_words_is_nothing():
    assert play("", "   ")[:3] == ("", "", "")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 bytes"), (1, "1 bytes"), (1023, "1023 bytes"), (1024, "1 KiB"), (1536, "1.500 KiB"),
     (1 << 20, "1 MiB"), (0.25, "0.250000 bytes"), (1 << 60, "1 EiB"), (12345678, "11.774 MiB")],
)  # fmt: skip
def test_sizes_have_the_largest_unit(value, text):
    assert words.shown(value) == text


def test_times_have_hours_if_they_take_a_second():
    assert "; 00.50 sec (" in words.report("read", 0.5, 0, 1)
    assert "; 1:01:01.50 (" in words.report("read", 3661.5, 0, 1)
    assert words.report("read", 2.0, 0, 8, parsable=True) == "8,1,0:00:02.00,4.000,0.500\n"


def test_bytes_are_shown_with_their_letters():
    assert words.dump(b"a1 \xff", 16) == "00000010:  61 31 20 ff  a1..\n"
    assert words.dump(bytes(17), 0).count("\n") == 2


@given(st.integers(0, (1 << 63) - 1))
def test_a_number_is_read_as_it_is_written(value):
    assert words.number(str(value)) == words.number(hex(value)) == value


@pytest.mark.parametrize("text", ["9999999999999999999999", "8E", "0xffffffffffffffff"])
def test_what_is_too_large_is_told_from_what_is_no_number(text):
    with pytest.raises(words.RefusedError, match="too large"):
        words.number(text)
    with pytest.raises(words.RefusedError, match="non-numeric"):
        words.number(f"x{text}")


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("0x1f", 31), ("017", 15), ("255", 255)])
def test_a_pattern_is_a_byte(text, value):
    assert words.pattern(text) == value
    for wrong in ("256", "-1", "x", "08", ""):
        with pytest.raises(words.RefusedError, match="valid pattern byte"):
            words.pattern(wrong)


@given(st.lists(st.sampled_from(["-q", "-P", "3", "-qP3", "--", "x", "-"]), max_size=6))
def test_switches_and_operands_come_in_any_order(given_words):
    try:
        line = words.split(["read", *given_words], "qP:", lambda _: None)
    except words.RefusedError:
        assert given_words[-1] == "-P" or (len(given_words) > 1 and given_words[-2:] == ["-P"])
        return
    assert set(line.switches) <= {"q", "P"}
    assert all(operand in given_words for operand in line.operands)
