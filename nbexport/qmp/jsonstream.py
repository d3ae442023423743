"""QEMU's dialect of JSON: a stream of values framed by nesting.

A value ends where braces and brackets are balanced, or where one kind is closed more often than
it was opened; newlines mean nothing. Strings may have single quotes. After a byte that begins no
token the reader skips to the next structural or control character and starts anew.

Nothing here waits or reads: bytes go in by `JsonStream.feed`, values and errors come out of
`JsonStream.next`, the same ones however the input is cut.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import Any

from nbexport.errors import CommandError
from nbexport.qapi.order import to_modified_utf8
from nbexport.qmp.jsonbuilder import Builder
from nbexport.qmp.jsontext import decode_string, decode_text, number
from nbexport.units import MiB

# The newest release, and the first that tells what is wrong and goes on behind it.
NEWEST = (9999,)
ERRORS_SINCE = (3, 1)
SYNTAX_ERROR = "Invalid JSON syntax"

# The reader's limits, the same in every release from 2.5 on: 64 MiB for the tokens of a message,
# 2 Mi tokens, 1024 levels. The memory of a message stays below 64 MiB of text plus some 100 bytes
# for each of 2 Mi values.
MAX_TOKEN_SIZE = 64 * MiB
MAX_TOKEN_COUNT = 2 << 20
MAX_NESTING = 1 << 10

_ORDINARY = re.compile(rb"""[ \t\r\n]+|[{}\[\]:,]""")
# with the escapes that are whole; possessive, so that nothing is kept to go back to
_IN_DOUBLE = re.compile(rb'(?:[^\x00-\x1f"\\\xfe\xff]++|\\[\x20-\xfd])*+')
_IN_SINGLE = re.compile(rb"(?:[^\x00-\x1f'\\\xfe\xff]++|\\[\x20-\xfd])*+")
# before 3.1: control characters pass, bytes that never occur in UTF-8 do not
_IN_DOUBLE_BEFORE = re.compile(rb'[^\x00"\\\xc0\xc1\xf5-\xff]*')
_IN_SINGLE_BEFORE = re.compile(rb"[^\x00'\\\xc0\xc1\xf5-\xff]*")
_ESCAPABLE_BEFORE = frozenset(b"\"'\\/bfnrtu")
_HEX_DIGIT = frozenset(b"0123456789abcdefABCDEF")
_KEYWORD = re.compile(rb"[a-z]*")
_DIGITS = re.compile(rb"[0-9]*")
_SKIPPED = re.compile(rb"[^\x00-\x08\x0a-\x1f\[\]{}:,\xfe\xff]*")

# What most messages are made of, a token at a time, where nothing is unusual about it and the byte
# that follows cannot belong to it: structure, a plain string, an integer, a keyword.
_COMMON = re.compile(
    rb"[ \t\r\n]*(?:([{}\[\]:,])"
    rb'|("[\x20\x21\x23-\x5b\x5d-\x7f]*")'
    rb"|((?:-?(?:0|[1-9][0-9]*)|true|false|null)(?=[ \t\r\n,:{}\[\]])))"
)

_DIGIT = frozenset(b"0123456789")
_NONZERO = frozenset(b"123456789")
_LETTER = frozenset(range(ord("a"), ord("z") + 1))
_STRUCTURAL = frozenset(b"{}[]:,")
_SPACE = frozenset(b" \t\r\n")

# Lexer states. Those of numbers follow the grammar of RFC 8259, section 6.
(
    _START,
    _RECOVERY,
    _STRING,
    _ESCAPE,
    _WORD,
    _SIGN,
    _ZERO,
    _INTEGER,
    _POINT,
    _FRACTION,
    _EXPONENT,
    _EXPONENT_SIGN,
    _EXPONENT_DIGITS,
    _HEX,
) = range(14)
# in these states the next byte may end the token instead of belonging to it
_NUMBER_ENDS = frozenset((_ZERO, _INTEGER, _FRACTION, _EXPONENT_DIGITS))


@dataclass(frozen=True, slots=True)
class Message:
    """One value of the stream, or what is wrong with it.

    Args:
        value: dict, list, str, int, float, bool or None.
        error: QEMU's error text; the value is None then.
    """

    value: Any = None
    error: str | None = None


class JsonStream:
    """The reading side of a QMP connection, from bytes to values.

    Input that has been fed is looked at only by `next`, so a caller that takes one message at a
    time leaves the rest unparsed.

    Releases before 3.1 read otherwise. What is no token, or too much, is ``Invalid JSON syntax``,
    and the byte after it starts anew; of a message's errors the last one counts, which is that of
    the outermost list or object; a second member of a name replaces the first.

    Args:
        release: the release that is wanted.
    """

    def __init__(self, release: tuple[int, ...] = NEWEST) -> None:
        self._before = release < ERRORS_SINCE
        self._digits_left = 0
        self._input: deque[bytes] = deque()
        self._position = 0
        self._state = _START
        self._quote = 0
        self._token = bytearray()
        self._reset()

    def _reset(self) -> None:
        """Begin a message."""
        self._braces = 0
        self._brackets = 0
        self._size = 0
        self._count = 0
        self._builder = Builder(before=self._before)

    @property
    def buffered(self) -> int:
        """Bytes that have been fed and not been looked at."""
        return sum(map(len, self._input)) - self._position

    def feed(self, data: bytes) -> None:
        """Take bytes from the connection."""
        if data:
            self._input.append(bytes(data))

    def next(self) -> Message | None:
        """Return the next message, or None if more bytes are needed."""
        while self._input:
            data = self._input[0]
            message = self._scan(data)
            if self._position >= len(data):
                self._input.popleft()
                self._position = 0
            if message is not None:
                return message
        return None

    def end(self) -> Message | None:
        """Return what the end of the input makes of a message that has begun, None if none has."""
        if self._state in _NUMBER_ENDS or self._state == _WORD:
            message = self._finish()
            if message is not None:
                return message
        elif self._state not in {_START, _RECOVERY}:
            return self._stray()
        if not self._count:
            return None
        error = self._builder.error or "premature EOI"
        self._reset()
        return Message(error=f"JSON parse error, {error}")

    def _scan(self, data: bytes) -> Message | None:
        """Read on in one piece of input until a message is complete or the piece ends."""
        while self._position < len(data):
            state = self._state
            message: Message | None = None
            if state == _START:
                message = self._common(data) or self._start(data)
            elif state == _STRING:
                message = self._string(data)
            elif state == _WORD:
                message = self._run(data, _KEYWORD)
            elif state == _RECOVERY:
                match = _SKIPPED.match(data, self._position)
                assert match is not None
                self._position = match.end()
                if self._position < len(data):
                    # the byte that ended the skipping is looked at again
                    self._state = _START
            elif state == _ESCAPE:
                message = self._escape(data[self._position])
            elif state == _HEX:
                message = self._digit(data[self._position])
            else:
                message = self._number(data)
            if message is not None:
                return message
        return None

    def _common(self, data: bytes) -> Message | None:
        """Take tokens as long as they are common ones; the rules are those of the other states."""
        match = _COMMON.match(data, self._position)
        while match is not None:
            kind = match.lastindex
            assert kind is not None
            start, end = match.span(kind)
            if end - start > MAX_TOKEN_SIZE:
                return None
            self._position = end
            if kind == 1:
                message = self._structural(data[start])
            else:
                message = self._limits(end - start)
                if message is None:
                    builder = self._builder
                    if kind == 2 and builder.error is None:  # a string
                        builder.scalar(data[start + 1 : end - 1].decode("ascii"), None)
                        message = self._complete()
                    else:
                        message = self._value(data[start:end])
            if message is not None:
                return message
            match = _COMMON.match(data, end)
        return None

    def _start(self, data: bytes) -> Message | None:
        if self._position >= len(data):
            return None
        match = _ORDINARY.match(data, self._position)
        if match:
            self._position = match.end()
            byte = data[match.start()]
            return None if byte in _SPACE else self._structural(byte)
        byte = data[self._position]
        if byte in (0x22, 0x27):
            self._quote = byte
            return self._take(byte, _STRING)
        if byte in _LETTER:
            return self._take(byte, _WORD)
        if byte in _NONZERO:
            return self._take(byte, _INTEGER)
        if byte == 0x30:
            return self._take(byte, _ZERO)
        return self._take(byte, _SIGN if byte == 0x2D else None)

    def _take(self, byte: int, state: int | None) -> Message | None:
        """Add a byte to the token and go to a state; None means that no token has that byte."""
        self._position += 1
        self._token.append(byte)
        if state is None:
            return self._stray()
        self._state = state
        return self._overflow()

    def _escape(self, byte: int) -> Message | None:
        """Take the byte after a backslash; what it means is seen when the string is complete."""
        if not self._before:
            return self._take(byte, _STRING if 0x20 <= byte <= 0xFD else None)
        self._digits_left = 4
        follow = _HEX if byte == 0x75 else _STRING
        return self._take(byte, follow if byte in _ESCAPABLE_BEFORE else None)

    def _digit(self, byte: int) -> Message | None:
        """Take one of four digits, which releases before 3.1 look for at once."""
        self._digits_left -= 1
        follow = _HEX if self._digits_left else _STRING
        return self._take(byte, follow if byte in _HEX_DIGIT else None)

    def _stray(self) -> Message:
        """Give up the token, and with it the message."""
        if self._before:
            return self._give_up("")
        text = decode_text(bytes(self._token).split(b"\0", 1)[0])
        self._token.clear()
        self._state = _RECOVERY
        self._reset()
        return Message(error=f"JSON parse error, stray '{text}'")

    def _overflow(self) -> Message | None:
        """Give up a token that is longer than a whole message may be."""
        if len(self._token) <= MAX_TOKEN_SIZE:
            return None
        return self._give_up("JSON token size limit exceeded")

    def _give_up(self, text: str) -> Message:
        """Begin anew with the next byte."""
        self._token.clear()
        self._state = _START
        self._reset()
        return Message(error=SYNTAX_ERROR if self._before else text)

    def _append(self, data: bytes, end: int) -> Message | None:
        """Add the bytes up to ``end`` to the token, but no more than make it too long."""
        end = min(end, self._position + MAX_TOKEN_SIZE + 1 - len(self._token))
        self._token += data[self._position : end]
        self._position = end
        return self._overflow()

    def _run(self, data: bytes, pattern: re.Pattern[bytes]) -> Message | None:
        """Add a run of bytes to the token; the byte after it, if here, ends the token."""
        match = pattern.match(data, self._position)
        assert match is not None
        message = self._append(data, match.end())
        if message is None and self._position < len(data):
            message = self._finish()
        return message

    def _string(self, data: bytes) -> Message | None:
        if self._before:
            pattern = _IN_DOUBLE_BEFORE if self._quote == 0x22 else _IN_SINGLE_BEFORE
        else:
            pattern = _IN_DOUBLE if self._quote == 0x22 else _IN_SINGLE
        match = pattern.match(data, self._position)
        assert match is not None
        message = self._append(data, match.end())
        if message is not None or self._position >= len(data):
            return message
        byte = data[self._position]
        if byte == self._quote:
            self._token.append(byte)
            self._position += 1
            return self._finish()
        return self._take(byte, _ESCAPE if byte == 0x5C else None)

    def _number(self, data: bytes) -> Message | None:
        state = self._state
        if state in (_INTEGER, _FRACTION, _EXPONENT_DIGITS):
            match = _DIGITS.match(data, self._position)
            assert match is not None
            message = self._append(data, match.end())
            if message is not None or self._position >= len(data):
                return message
        byte = data[self._position]
        follow: int | None = None
        if state == _SIGN:
            follow = _ZERO if byte == 0x30 else _INTEGER if byte in _NONZERO else None
        elif state == _POINT:
            follow = _FRACTION if byte in _DIGIT else None
        elif state == _EXPONENT:
            follow = (
                _EXPONENT_SIGN if byte in b"+-" else _EXPONENT_DIGITS if byte in _DIGIT else None
            )
        elif state == _EXPONENT_SIGN:
            follow = _EXPONENT_DIGITS if byte in _DIGIT else None
        elif byte == 0x2E and state in (_ZERO, _INTEGER):
            follow = _POINT
        elif byte in b"eE" and state in (_INTEGER, _FRACTION):
            follow = _EXPONENT
        elif not (state == _ZERO and byte in _DIGIT):
            return self._finish()
        return self._take(byte, follow)

    def _finish(self) -> Message | None:
        """Close the token; the current byte, if it is not part of it, starts the next."""
        token = bytes(self._token)
        self._token.clear()
        self._state = _START
        return self._limits(len(token)) or self._value(token)

    def _structural(self, byte: int) -> Message | None:
        if byte == 0x7B:
            self._braces += 1
        elif byte == 0x7D:
            self._braces -= 1
        elif byte == 0x5B:
            self._brackets += 1
        elif byte == 0x5D:
            self._brackets -= 1
        message = self._limits(1)
        if message is not None:
            return message
        self._builder.punctuation(byte)
        return self._complete()

    def _limits(self, length: int) -> Message | None:
        """Account for a token; return an error if the message is too big with it."""
        text = None
        if self._size + length + 1 > MAX_TOKEN_SIZE:
            text = "JSON token size limit exceeded"
        elif self._count + 1 > MAX_TOKEN_COUNT:
            text = "JSON token count limit exceeded"
        elif self._brackets + self._braces > MAX_NESTING:
            text = "JSON nesting depth limit exceeded"
        if text is not None:
            self._reset()
            return Message(error=SYNTAX_ERROR if self._before else text)
        self._size += length
        self._count += 1
        return None

    def _value(self, token: bytes) -> Message | None:
        first = token[0]
        builder = self._builder
        if builder.error is None:
            if first in (0x22, 0x27):
                text, error = decode_string(token)
                builder.scalar(text, error)
            elif first in _LETTER:
                builder.keyword(token)
            else:
                builder.scalar(number(token), None)
        return self._complete()

    def _complete(self) -> Message | None:
        """Return the message if its last token was just read."""
        open_ = self._braces > 0 or self._brackets > 0
        if open_ and self._braces >= 0 and self._brackets >= 0:
            return None
        builder = self._builder
        self._reset()
        if builder.error is not None:
            return Message(error=f"JSON parse error, {builder.error}")
        return Message(builder.result)


def parse(text: str) -> Any:
    """Return the one value of a text that is complete, such as an option of a command line.

    Raises:
        CommandError: it is not JSON, or not one value; the first thing that is wrong.
    """
    stream = JsonStream()
    stream.feed(to_modified_utf8(text))
    found: Message | None = None
    while (message := stream.next() or stream.end()) is not None:
        if found is not None:
            raise CommandError("Expecting at most one JSON value")
        if message.error is not None:
            raise CommandError(message.error)
        found = message
    if found is None:
        raise CommandError("Expecting a JSON value")
    return found.value
