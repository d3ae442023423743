"""What a program does to its files, noted, so that any crash can be played."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbexport.block import FileNode

if TYPE_CHECKING:
    import random

    import pytest


class Journal:
    """What a program does to its files, in order: enough to play any crash."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.operations: list[tuple[str, int, bytes]] = []
        write, grow, flush = FileNode._write, FileNode.grow, FileNode._flush
        allocate = FileNode._fallocate

        def logged_write(node: FileNode, offset: int, data: memoryview) -> None:
            self.operations.append(("write", offset, bytes(data)))
            write(node, offset, data)

        def logged_grow(node: FileNode, size: int) -> None:
            self.operations.append(("grow", size, b""))
            grow(node, size)

        def logged_flush(node: FileNode) -> None:
            self.operations.append(("flush", 0, b""))
            flush(node)

        def logged_allocate(node: FileNode, mode: int, offset: int, length: int) -> bool:
            # Punched or zeroed: the bytes are zeroes. (Whether it made the file longer is no
            # matter here: nothing reads beyond its end.)
            self.operations.append(("zero", offset, length.to_bytes(8, "big")))
            return allocate(node, mode, offset, length)

        monkeypatch.setattr(FileNode, "_write", logged_write)
        monkeypatch.setattr(FileNode, "_fallocate", logged_allocate)
        monkeypatch.setattr(FileNode, "grow", logged_grow)
        monkeypatch.setattr(FileNode, "_flush", logged_flush)

    def after_crash(self, before: bytes, at: int, choose: random.Random | None) -> bytes:
        """Return the file after the first ``at`` operations.

        Args:
            before: the file at the beginning.
            at: how many operations happened.
            choose: what drops or tears some of those that no flush followed; None keeps all.
        """
        flushed = max((n + 1 for n in range(at) if self.operations[n][0] == "flush"), default=0)
        image = bytearray(before)
        for number, (what, offset, data) in enumerate(self.operations[:at]):
            if number >= flushed and choose is not None:
                if choose.random() < 0.5:
                    continue
                if what == "write":  # sectors are written wholly or not at all
                    sectors = -(-(offset % 512 + len(data)) // 512)
                    whole = choose.choice([1, sectors // 2, sectors, sectors])
                    end = max(1, whole) * 512 - offset % 512
                    data = data[:end]
            if what == "grow" and offset > len(image):
                image.extend(bytes(offset - len(image)))
            elif what == "zero":
                end = min(len(image), offset + int.from_bytes(data, "big"))
                image[offset:end] = bytes(max(0, end - offset))
            elif what == "write":
                image.extend(bytes(max(0, offset + len(data) - len(image))))
                image[offset : offset + len(data)] = data
        return bytes(image)
