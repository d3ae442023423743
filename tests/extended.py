"""Extended headers by hand: requests and chunks of 32 bytes, by the protocol's extension."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from nbd_talk import CLOSED, EXTENDED, GO, READ, SET_META, Talk, info, queries

if TYPE_CHECKING:
    import os

COOKIE = 0x1122334455667788


def request(command, offset=0, length=0, flags=0, payload=b"", cookie=COOKIE) -> bytes:
    head = struct.pack(">IHHQQQ", 0x21E41C71, flags, command, cookie, offset, length)
    return head + payload


def chunk(kind, payload=b"", *, offset=0, done=True, cookie=COOKIE) -> bytes:
    head = struct.pack(">IHHQQQ", 0x6E8A278C, int(done), kind, cookie, offset, len(payload))
    return head + payload


def error(text, *, offset=0, number=22) -> bytes:
    data = text.encode()
    return chunk(0x8001, struct.pack(">IH", number, len(data)) + data, offset=offset)


def ids(length, *numbers) -> bytes:
    """Return the payload of a block status: its range, and the contexts it asks for."""
    return struct.pack(f">Q{len(numbers)}I", length, *numbers)


class ExtendedTalk(Talk):
    """A conversation that has agreed on extended headers."""

    def __init__(self, path: str | os.PathLike[str], *contexts: str, export: bytes = b"") -> None:
        super().__init__(path)
        self.flags()
        assert self.option(EXTENDED).endswith(b"\0\0\0\1\0\0\0\0")
        if contexts:
            self.option(SET_META, queries(export, *(name.encode() for name in contexts)))
        self.option(GO, info(export))

    def ask(self, *arguments, **options) -> bytes:
        """Send a request, return its chunks; the one marked as done is the last."""
        self.send(request(*arguments, **options))
        return self.take_chunks()

    def take_chunks(self) -> bytes:
        taken = b""
        while True:
            head = self._exactly(32)
            taken += head
            if head.endswith(CLOSED):
                return self._note(taken)
            taken += self._exactly(int.from_bytes(head[24:], "big"))
            if head[5] & 1:
                return self._note(taken)

    def alive(self) -> None:
        """Show that the stream is in step."""
        reply = self.ask(READ, 5, 7, 4)  # DF
        assert reply[:32] == struct.pack(">IHHQQQ", 0x6E8A278C, 1, 1, COOKIE, 5, 15)
