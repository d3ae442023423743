"""Which format an image seems to have, by its first bytes, as QEMU guesses it."""

from __future__ import annotations

from typing import Final

PROBE_BYTES: Final = 512
_QCOW_MAGIC: Final = b"QFI\xfb"

# What QEMU recognises by a magic at this offset and would not open as raw.
_OTHER_FORMATS: Final = (
    (0, b"COWD", "vmdk"),
    (0, b"KDMV", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"LUKS\xba\xbe", "luks"),
    (0, b"QED\0", "qed"),
    (0, b"WithouFreSpacExt", "parallels"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"conectix", "vpc"),
    (0, b"vhdxfile", "vhdx"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
)
OTHER_DRIVERS: Final = frozenset(
    ("bochs", "cloop", "dmg", "qcow", *(name for _, _, name in _OTHER_FORMATS))
)


def recognised(begin: bytes | bytearray) -> str:
    """Return the driver of an image that begins so; "raw" if nothing is recognised.

    Args:
        begin: the first `PROBE_BYTES` bytes.
    """
    if begin.startswith(_QCOW_MAGIC):
        version = int.from_bytes(begin[4:8], "big")
        if version >= 2:
            return "qcow2"
        if version == 1:
            return "qcow"
    for offset, magic, name in _OTHER_FORMATS:
        if begin[offset:].startswith(magic):
            return name
    return "raw"
