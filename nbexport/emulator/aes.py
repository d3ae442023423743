"""AES-256 in CBC mode, decryption only: how management tools hand over secrets.

They come encrypted with a key that the process has already got. What is decrypted here are
passwords of a few blocks, so a table and plain loops do; nothing about the timing is secret.

Source: FIPS 197 (the cipher), NIST SP 800-38A, section 6.2 (CBC).
"""

from __future__ import annotations

BLOCK = 16
"""Bytes of a block, and of the initialization vector."""
KEY_LENGTH = 32
"""Bytes of a key; the key schedule below is that of AES-256."""

_ROUNDS = 14
_KEY_WORDS = 8


def _double(value: int) -> int:
    """Multiply by x in the field of the cipher."""
    value <<= 1
    return value ^ 0x11B if value & 0x100 else value


def _product(left: int, right: int) -> int:
    result = 0
    while right:
        if right & 1:
            result ^= left
        left, right = _double(left), right >> 1
    return result


def _make_box() -> tuple[bytes, bytes]:
    """Return the substitution box and its inverse (FIPS 197, section 5.1.1)."""
    box, inverse = bytearray(256), bytearray(256)
    power = reciprocal = 1  # of 3, which generates the field, and of its inverse
    while True:
        turned = reciprocal | reciprocal << 8
        mixed = turned
        for shift in (4, 5, 6, 7):
            mixed ^= turned >> shift
        value = mixed & 0xFF ^ 0x63
        box[power], inverse[value] = value, power
        power = _product(power, 3)
        reciprocal = _product(reciprocal, 0xF6)
        if power == 1:
            break
    box[0], inverse[0x63] = 0x63, 0
    return bytes(box), bytes(inverse)


_BOX, _INVERSE_BOX = _make_box()
_TIMES = {
    factor: bytes(_product(value, factor) for value in range(256)) for factor in (9, 11, 13, 14)
}
# Where each byte of a block comes from when the rows are shifted back.
_UNSHIFTED = [(column - row) % 4 * 4 + row for column in range(4) for row in range(4)]


def _round_keys(key: bytes) -> list[bytes]:
    """Expand the key (FIPS 197, section 5.2)."""
    words = [key[start : start + 4] for start in range(0, KEY_LENGTH, 4)]
    constant = 1
    while len(words) < 4 * (_ROUNDS + 1):
        word = words[-1]
        if len(words) % _KEY_WORDS == 0:
            word = (word[1:] + word[:1]).translate(_BOX)
            word = bytes([word[0] ^ constant]) + word[1:]
            constant = _double(constant)
        elif len(words) % _KEY_WORDS == 4:
            word = word.translate(_BOX)
        words.append(_xor(word, words[-_KEY_WORDS]))
    return [b"".join(words[start : start + 4]) for start in range(0, len(words), 4)]


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(one ^ other for one, other in zip(left, right, strict=True))


def _unmix(state: bytes) -> bytes:
    """Undo the mixing of the columns (FIPS 197, section 5.3.3)."""
    nine, eleven, thirteen, fourteen = (_TIMES[factor] for factor in (9, 11, 13, 14))
    mixed = bytearray()
    for start in range(0, BLOCK, 4):
        column = state[start : start + 4]
        for row in range(4):
            a, b, c, d = column[row:] + column[:row]
            mixed.append(fourteen[a] ^ eleven[b] ^ thirteen[c] ^ nine[d])
    return bytes(mixed)


def _decrypt_block(block: bytes, keys: list[bytes]) -> bytes:
    state = _xor(block, keys[-1])
    for number in range(_ROUNDS - 1, -1, -1):
        state = bytes(state[source] for source in _UNSHIFTED).translate(_INVERSE_BOX)
        state = _xor(state, keys[number])
        if number:
            state = _unmix(state)
    return state


def decrypt_cbc(key: bytes, start: bytes, data: bytes) -> bytes:
    """Return what was encrypted, with its padding.

    Args:
        key: 32 bytes.
        start: the initialization vector, 16 bytes.
        data: whole blocks.

    Raises:
        ValueError: one of the three has the wrong length.
    """
    if len(key) != KEY_LENGTH or len(start) != BLOCK or len(data) % BLOCK:
        raise ValueError("not a key, a vector and whole blocks")
    keys = _round_keys(key)
    plain = bytearray()
    for offset in range(0, len(data), BLOCK):
        block = data[offset : offset + BLOCK]
        plain += _xor(_decrypt_block(block, keys), start)
        start = block
    return bytes(plain)
