"""What qemu-nbd --list prints."""

from __future__ import annotations

from nbexport.nbd import BlockSize, ExportInfo, listing


def test_the_text_has_qemu_nbds_layout():
    exports = [
        ExportInfo("exp", 2097152, 0x58F, "a text", BlockSize(1, 4096, 33554432),
                   ["base:allocation", "qemu:dirty-bitmap:b"]),
        ExportInfo("", 0, 0, None, None, []),
    ]  # fmt: skip
    assert listing.text(exports) == (
        "exports available: 2\n"
        " export: 'exp'\n"
        "  description: a text\n"
        "  size:  2097152\n"
        "  flags: 0x58f ( readonly flush fua df multi cache )\n"
        "  min block: 1\n"
        "  opt block: 4096\n"
        "  max block: 33554432\n"
        "  available meta contexts: 2\n"
        "   base:allocation\n"
        "   qemu:dirty-bitmap:b\n"
        " export: ''\n"
    )


def test_a_server_without_exports_has_one_line():
    assert listing.text([]) == "exports available: 0\n"
