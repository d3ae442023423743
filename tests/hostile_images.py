"""Images with one field at an extreme, opened and used in a process with bounded memory and time.

Run as a program: ``python hostile_images.py FOLDER`` reads each image ``FOLDER/base-*`` and tries
all its mutants; it prints how many opened and how many were refused, and ends with status 1 at the
first that did anything else.
"""

from __future__ import annotations

import resource
import signal
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nbexport import block
from nbexport.block.qcow2.check import check_qcow2
from nbexport.errors import NbexportError

if TYPE_CHECKING:
    from collections.abc import Iterator

MiB = 1 << 20
MEMORY = 256 * MiB
SECONDS = 20
HEADER = 112
PIECE = 64 * 1024
TABLE_WORDS = 24


def extremes(bits: int, old: int, length: int) -> set[int]:
    """Return what a field of so many bits may be set to, in an image of ``length`` bytes."""
    top = 1 << bits
    found = {0, 1, top - 1, top // 2, top // 2 - 1, old + 1, old - 1, old * 2, length, length // 2}
    found |= {512, 4096, 1 << 21, (1 << 56) - 512, (1 << 62) | old, (1 << 63) | length, old ^ 512}
    return {value % top for value in found} - {old}


def mutants(image: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield what to call it and the image, once for each field and extreme."""
    for offset, bits in _fields(image):
        size = bits // 8
        old = int.from_bytes(image[offset : offset + size], "big")
        for value in sorted(extremes(bits, old, len(image))):
            changed = bytearray(image)
            changed[offset : offset + size] = value.to_bytes(size, "big")
            yield f"{offset:#x}: {old:#x} -> {value:#x}", bytes(changed)


def _fields(image: bytes) -> Iterator[tuple[int, int]]:
    for offset in range(4, HEADER, 4):
        yield offset, 32
    for offset in (8, 24, 40, 48, 64, 72, 80, 88):
        yield offset, 64
    # The extensions, then the first words of each table that there is.
    yield from ((offset, 32) for offset in range(HEADER, HEADER + 96, 4))
    cluster = 1 << struct.unpack_from(">I", image, 20)[0]
    seen = set()
    for table in _tables(image, cluster):
        for offset in range(table, min(table + TABLE_WORDS * 8, len(image) - 7), 8):
            if offset not in seen and any(image[offset : offset + 8]):
                seen.add(offset)
                yield offset, 64
                yield offset, 32
                yield offset + 4, 16
                yield offset + 6, 16


def _tables(image: bytes, cluster: int) -> list[int]:
    """Return where tables begin: L1, L2s, counts and their table, snapshots, bitmaps."""

    def words(offset: int, count: int = 8) -> list[int]:
        found = struct.unpack_from(f">{count}Q", image, offset)
        return [word & 0x00FF_FFFF_FFFF_FE00 for word in found if word & 0x00FF_FFFF_FFFF_FE00]

    l1, counts = (struct.unpack_from(">Q", image, at)[0] for at in (40, 48))
    snapshots = struct.unpack_from(">IQ", image, 60)
    tables = [l1, counts, *words(l1), *words(counts)]
    if snapshots[0]:
        tables.append(snapshots[1])
        tables.append(struct.unpack_from(">Q", image, snapshots[1])[0])
    at = HEADER if struct.unpack_from(">I", image, 4)[0] > 2 else cluster
    while at + 8 <= cluster:
        kind, length = struct.unpack_from(">II", image, at)
        if kind == 0x23852875:
            directory = struct.unpack_from(">Q", image, at + 24)[0]
            tables += [directory, struct.unpack_from(">Q", image, directory)[0]]
        if kind == 0:
            break
        at += 8 + -(-length // 8) * 8
    return [table for table in tables if 0 < table < len(image)]


def use(path: Path) -> None:
    """Do all that a reader does: contents, maps, bitmaps, the check.

    Raises:
        NbexportError, OSError: what a damaged image may raise.
    """
    with block.open_image(path, force_share=True) as node:
        for offset in {0, node.size // 2, max(0, node.size - PIECE)}:
            node.read(offset, min(PIECE, node.size - offset))
        node.allocation()
        node.depth()
        for stored in node.bitmaps.values():
            if not stored.inconsistent:
                stored.bitmap.extents()
    with block.open_image(path, force_share=True) as node:
        if isinstance(node, block.Qcow2Node):
            check_qcow2(node)


def write(path: Path) -> None:
    """Write here and there, and close; a damaged image is refused."""
    with block.open_writable(path, "qcow2") as node:
        for offset in {0, node.size // 2 // 512 * 512}:
            node.write_from(offset, memoryview(b"\1" * min(512, node.size - offset)))
        node.discard(0, min(PIECE, node.size))
        node.flush()


def limit_memory() -> None:
    """Let this process have so much more than it has now, and no more."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            most = int(line.split()[1]) * 1024 + MEMORY
            resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def main(folder: Path) -> int:
    done = {"opened": 0, "refused": 0}
    path = folder / "mutant.qcow2"
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    use(next(folder.glob("base-*")))  # everything is imported
    limit_memory()
    for base in sorted(folder.glob("base-*")):
        for name, image in mutants(base.read_bytes()):
            path.write_bytes(image)
            print(f"{base.name} {name}", file=sys.stderr)
            for attempt in (use, write):
                signal.alarm(SECONDS)
                try:
                    attempt(path)
                    done["opened"] += 1
                except (NbexportError, OSError) as error:
                    if not str(error):
                        raise
                    done["refused"] += 1
                signal.alarm(0)
    print(done["opened"], done["refused"])
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
