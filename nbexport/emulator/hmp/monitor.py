"""A monitor for humans at a stream of bytes: it echoes what is typed, and answers each line.

The keys are those of a terminal: a line ends with Enter, and a character can be taken back. What is
printed for a terminal to draw is what QEMU 7.2 prints.
"""

from __future__ import annotations

from typing import Final

from nbexport.errors import UsageError

PROMPT: Final = "(qemu) "
LINE_MAX: Final = 4095
"""Bytes of a line that are kept; what is typed behind them is not seen."""
_ENTER: Final = frozenset(b"\r\n")
_BACKSPACE: Final = frozenset(b"\b\x7f")
_BEGIN: Final = 0x01
_END: Final = 0x05
_DELETE: Final = 0x04
_BACK_WORD: Final = 0x17
_HISTORY_MAX: Final = 64
"""Lines that are kept; a line that is typed again moves to the end."""
_ESCAPE: Final = 0x1B
_SPACE: Final = 0x20


class Monitor:
    """What was typed and what is to be drawn; it does no input and output itself.

    Args:
        version: the number of the release, which the greeting names.
    """

    def __init__(self, version: str) -> None:
        if not version:
            raise UsageError("a monitor has a version")
        self._version = version
        self._line = bytearray()
        self._cursor = 0
        self._drawn = bytearray()
        self._drawn_cursor = 0
        self._escape = b""
        self._drawing = bytearray()
        self._history: list[bytes] = []
        self._place = 0

    def greet(self) -> bytes:
        """Return what a human sees first."""
        return (
            f"QEMU {self._version} monitor - type 'help' for more information\r\n{PROMPT}".encode()
        )

    def type(self, byte: int) -> str | None:
        """Take one byte; return the line if it ends one.

        Args:
            byte: what was typed.
        """
        if self._escape:
            self._escaped(byte)
        elif byte in _ENTER:
            self._drawing += b"\r\n"
            line, self._line = self._line, bytearray()
            self._cursor = 0
            self._remember(bytes(line))
            self._drawn, self._drawn_cursor = bytearray(), 0
            return line.decode("utf-8", "replace")
        elif byte == _ESCAPE:
            self._escape = bytes([byte])
        elif byte in _BACKSPACE:
            if self._cursor:
                self._cursor -= 1
                del self._line[self._cursor]
        else:
            self._key(byte)
        self._draw()
        return None

    def _key(self, byte: int) -> None:
        if byte == _BEGIN:
            self._cursor = 0
        elif byte == _END:
            self._cursor = len(self._line)
        elif byte == _DELETE:
            del self._line[self._cursor : self._cursor + 1]
        elif byte == _BACK_WORD:
            kept = self._line[: self._cursor].rstrip(b" ")
            start = kept.rfind(b" ") + 1
            del self._line[start : self._cursor]
            self._cursor = start
        elif byte >= _SPACE and len(self._line) < LINE_MAX:
            self._line.insert(self._cursor, byte)
            self._cursor += 1

    def _escaped(self, byte: int) -> None:
        """Take a byte of a key that sends several."""
        if self._escape == b"\x1b":
            self._escape = self._escape + bytes([byte]) if byte in b"[O" else b""
            return
        if byte in b"0123456789;":
            self._escape += bytes([byte])
            return
        before, self._escape = self._escape, b""
        if before.startswith(b"\x1bO"):
            if byte in b"HF":
                self._key(_BEGIN if byte == ord("H") else _END)
        elif byte == ord("D"):
            self._cursor = max(self._cursor - 1, 0)
        elif byte == ord("C"):
            self._cursor = min(self._cursor + 1, len(self._line))
        elif byte in b"AF":
            self._recall(-1)
        elif byte in b"BE":
            self._recall(1)
        elif byte == ord("~"):
            self._key({b"1": _BEGIN, b"3": _DELETE, b"4": _END}.get(before[2:], 0))

    def _recall(self, step: int) -> None:
        """Show an earlier line, or a later one; behind the last there is an empty one."""
        place = self._place + step
        if not 0 <= place <= len(self._history):
            return
        self._place = place
        self._line = bytearray(self._history[place]) if place < len(self._history) else bytearray()
        self._cursor = len(self._line)

    def _remember(self, line: bytes) -> None:
        if line:
            self._history = [each for each in self._history if each != line][1 - _HISTORY_MAX :]
            self._history.append(line)
        self._place = len(self._history)

    def _draw(self) -> None:
        """Draw the line anew if it has changed, and put the cursor where it is."""
        if self._line != self._drawn:
            self._drawing += b"\x1b[D" * self._drawn_cursor + self._line + b"\x1b[K"
            self._drawn = bytearray(self._line)
            self._drawn_cursor = len(self._line)
        steps = self._cursor - self._drawn_cursor
        self._drawing += (b"\x1b[C" if steps > 0 else b"\x1b[D") * abs(steps)
        self._drawn_cursor = self._cursor

    def take_drawing(self) -> bytes:
        """Return what is to be drawn since it was asked last."""
        drawing, self._drawing = bytes(self._drawing), bytearray()
        return drawing
