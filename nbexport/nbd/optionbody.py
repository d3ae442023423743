"""The data of an option, and what is said when they are wrong. No I/O."""

from __future__ import annotations

from nbexport.errors import OptionError
from nbexport.nbd import wire


class OptionBody:
    """The data of an option, taken field by field with QEMU's checks.

    Args:
        option: its number, for the texts.
        data: the whole body.
    """

    def __init__(self, option: int, data: bytes) -> None:
        self._option = option
        self._data = data
        self._at = 0

    def take(self, length: int) -> bytes:
        """Return the next bytes; raises OptionError if the body is shorter."""
        if length > len(self._data) - self._at:
            name = wire.option_name(self._option)
            raise OptionError(wire.REP_ERR_INVALID, f"Inconsistent lengths in option {name}")
        start, self._at = self._at, self._at + length
        return self._data[start : self._at]

    def uint16(self) -> int:
        """Return the next two bytes as a number."""
        return int.from_bytes(self.take(2), "big")

    def uint32(self) -> int:
        """Return the next four bytes as a number."""
        return int.from_bytes(self.take(4), "big")

    def text(self, length: int) -> bytes:
        """Return the next bytes as a string, in which there may be no NUL."""
        text = self.take(length)
        if b"\0" in text:
            name = wire.option_name(self._option)
            raise OptionError(wire.REP_ERR_INVALID, f"Unexpected embedded NUL in option {name}")
        return text

    def name(self) -> bytes:
        """Return an export name with its length before it."""
        length = self.uint32()
        if length > wire.STRING_MAX:
            raise OptionError(wire.REP_ERR_INVALID, f"Invalid name length: {length}")
        return self.text(length)

    def end(self) -> None:
        """Raise OptionError if anything is left."""
        if self._at != len(self._data):
            raise unexpected_length(self._option)


def unexpected_length(option: int) -> OptionError:
    """Return the refusal of an option whose data are too long; QEMU's words."""
    # QEMU has had this name since it has had the option.
    known = option == wire.OPT_EXTENDED_HEADERS
    name = "extended headers" if known else wire.option_name(option)
    return OptionError(wire.REP_ERR_INVALID, f"option '{name}' has unexpected length")
