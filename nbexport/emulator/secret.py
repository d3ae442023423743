"""What a secret object holds: a password or key, given, read from a file, encoded or encrypted.

Source: QEMU's ``docs/system/secrets.rst``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbexport.emulator import aes
from nbexport.errors import CommandError
from nbexport.units import MiB

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FILE_MAX = 16 * MiB
"""Bytes of a secret's file: it is read at once, and nobody's password is longer."""

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_VALUES = {byte: value for value, byte in enumerate(_ALPHABET)} | {ord("="): 0}
_BREAK = ord("\n")


def load(properties: Mapping[str, Any], find_key: Callable[[str], bytes]) -> bytes:
    """Return what the properties of a secret say, in the clear.

    Args:
        properties: ``data`` or ``file``, maybe ``format``, ``keyid`` and ``iv``.
        find_key: returns the bytes of another secret by its id.

    Raises:
        CommandError: they contradict each other, or the secret cannot be read or decrypted.
    """
    if "file" in properties:
        if "data" in properties:
            raise CommandError("'file' and 'data' are mutually exclusive")
        found = read_file(properties["file"])
    elif "data" in properties:
        found = properties["data"].encode("utf-8", "surrogatepass")
    else:
        raise CommandError("Either 'file' or 'data' must be provided")
    encoded = properties.get("format", "raw") == "base64"
    if "keyid" in properties:
        return _decrypt(found, find_key(properties["keyid"]), properties.get("iv"), encoded=encoded)
    return decode_base64(found) if encoded else found


def read_file(name: str) -> bytes:
    """Return the content of a secret's file.

    Raises:
        CommandError: it cannot be read; the words are GLib's.
    """
    verb = "Failed to open file"
    try:
        with Path(name).open("rb", buffering=0) as file:
            verb = "Failed to read from file"
            found = file.read(FILE_MAX + 1)
    except IsADirectoryError as error:
        reason = f"Error reading file \u201c{name}\u201d: {error.strerror}"
        raise CommandError(f"Unable to read {name}: {reason}") from error
    except OSError as error:
        reason = f"{verb} \u201c{name}\u201d: {error.strerror}"
        raise CommandError(f"Unable to read {name}: {reason}") from error
    if len(found) > FILE_MAX:
        raise CommandError(f"Unable to read {name}: it has more than {FILE_MAX} bytes")
    return found


def decode_base64(text: bytes) -> bytes:
    """Return what a text in base64 stands for, read as kindly as GLib does.

    Line breaks do not count, padding may stand anywhere, and what does not fill a group of four
    characters at the end is dropped.

    Raises:
        CommandError: there is another character in it.
    """
    if any(byte not in _VALUES and byte != _BREAK for byte in text):
        raise CommandError("Base64 data contains invalid characters")
    decoded = bytearray()
    letters = bytes(byte for byte in text if byte in _VALUES)
    for start in range(0, len(letters) - 3, 4):
        group = letters[start : start + 4]
        number = 0
        for byte in group:
            number = number << 6 | _VALUES[byte]
        first, second, third = number.to_bytes(3, "big")
        decoded.append(first)
        if group[2] != ord("="):
            decoded.append(second)
        if group[3] != ord("="):
            decoded.append(third)
    return bytes(decoded)


def _decrypt(data: bytes, key: bytes, vector: str | None, *, encoded: bool) -> bytes:
    """Decrypt with AES-256 in CBC mode, checked in QEMU's order."""
    if len(key) != aes.KEY_LENGTH:
        raise CommandError(f"Key should be {aes.KEY_LENGTH} bytes in length")
    if vector is None:
        raise CommandError("IV is required to decrypt secret")
    start = decode_base64(vector.encode())
    if len(start) != aes.BLOCK:
        raise CommandError(f"IV should be {aes.BLOCK} bytes in length not {len(start)}")
    if encoded:
        data = decode_base64(data)
    if len(data) % aes.BLOCK:
        raise CommandError(f"Length {len(data)} must be a multiple of block size {aes.BLOCK}")
    plain = aes.decrypt_cbc(key, start, data)
    padding = plain[-1] if plain else 0
    if padding > aes.BLOCK:
        raise CommandError(f"Incorrect number of padding bytes ({padding}) found on decrypted data")
    return plain[: len(plain) - padding]
