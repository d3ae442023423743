"""From the tokens of a JSON message to its value, or to the reader's error text."""

from __future__ import annotations

from typing import Any

# An error text shows at most this much of a keyword: a buffer of 1024 bytes with its terminator.
_MAX_SHOWN = 1023
_OPENING = {0x7B: 0x7D, 0x5B: 0x5D}

_NO_KEY = object()
# What the builder expects next.
_VALUE, _FIRST_ELEMENT, _FIRST_KEY, _KEY, _COLON, _COMMA, _DONE = range(7)


class Builder:
    """Tokens to a value; keeps the first error and ignores all that follows it."""

    __slots__ = ("_before", "_expected", "_keys", "_open", "error", "result")

    def __init__(self, *, before: bool) -> None:
        self._before = before
        self._expected = _VALUE
        self._open: list[Any] = []
        # for each open container: None in a list, else the member's name or _NO_KEY
        self._keys: list[Any] = []
        self.result: Any = None
        self.error: str | None = None

    def _fail(self, text: str, *, of_value: bool = False) -> None:
        """Keep an error, of a value or of the container that is being read."""
        if self._before and len(self._open) + of_value > 1:
            # each container tells once more that something in it is wrong
            key = self._keys[0]
            text = "expecting value" if key is None else "Missing value in dict"
            if key is _NO_KEY:
                text = "key is not a string in object"
        self.error = text
        self._open.clear()
        self._keys.clear()

    def punctuation(self, byte: int) -> None:
        """Take one of ``{ } [ ] : ,``."""
        if self.error is not None:
            return
        expected = self._expected
        if byte in _OPENING and expected in (_VALUE, _FIRST_ELEMENT, _FIRST_KEY, _KEY):
            is_object = byte == 0x7B
            self._open.append({} if is_object else [])
            self._keys.append(_NO_KEY if is_object else None)
            self._expected = _FIRST_KEY if is_object else _FIRST_ELEMENT
        elif expected == _COLON:
            if byte != 0x3A:
                self._fail("missing : in object pair")
            self._expected = _VALUE
        elif expected == _COMMA:
            self._separator(byte)
        elif (expected == _FIRST_ELEMENT and byte == 0x5D) or (
            expected == _FIRST_KEY and byte == 0x7D
        ):
            self._close()
        else:
            self._fail("expecting value", of_value=True)

    def _separator(self, byte: int) -> None:
        is_object = self._keys[-1] is not None
        if byte == (0x7D if is_object else 0x5D):
            self._close()
        elif byte != 0x2C:
            self._fail(f"expected separator in {'dict' if is_object else 'list'}")
        else:
            self._expected = _KEY if is_object else _VALUE

    def _close(self) -> None:
        value = self._open.pop()
        self._keys.pop()
        self._put(value)

    def keyword(self, token: bytes) -> None:
        """Take a word of small letters."""
        if self._expected in (_COLON, _COMMA):
            self.scalar(None, None)
        elif token == b"true":
            self.scalar(value=True, error=None)
        elif token == b"false":
            self.scalar(value=False, error=None)
        elif token == b"null":
            self.scalar(None, None)
        else:
            text = f"invalid keyword '{token[:_MAX_SHOWN].decode('ascii')}'"
            self._fail(text[:_MAX_SHOWN], of_value=True)

    def scalar(self, value: Any, error: str | None) -> None:
        """Take a value that is one token, or the reason why it is none."""
        if self._expected == _COLON:
            self._fail("missing : in object pair")
        elif self._expected == _COMMA:
            is_object = self._keys[-1] is not None
            self._fail(f"expected separator in {'dict' if is_object else 'list'}")
        elif error is not None:
            self._fail(error, of_value=True)
        else:
            self._put(value)

    def _put(self, value: Any) -> None:
        """Put a complete value where it belongs."""
        if not self._open:
            self.result = value
            self._expected = _DONE
            return
        container = self._open[-1]
        key = self._keys[-1]
        if key is None:
            container.append(value)
        elif key is _NO_KEY:
            if not isinstance(value, str):
                self._fail("key is not a string in object")
                return
            self._keys[-1] = value
            self._expected = _COLON
            return
        else:
            if key in container and not self._before:
                self._fail("duplicate key")
                return
            container[key] = value
            self._keys[-1] = _NO_KEY
        self._expected = _COMMA
