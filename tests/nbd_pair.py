"""The same two disks behind QEMU's server and ours, and scripts to run against both."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING, Any

from disks import raw_disk
from nbd_talk import GO, READ, SET_META, STRUCTURED, Talk, info, queries, serving
from peers import background, peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

RAW = b"raw"
DISK = b""
DISK_SIZE = 64 << 20
BITMAPS = (b"qemu:dirty-bitmap:weekly", b"qemu:dirty-bitmap:daily")
BASE, DEPTH = b"base:allocation", b"qemu:allocation-depth"


@contextlib.contextmanager
def both(two_bitmaps: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """Serve a raw disk and the demonstration image twice; give the sockets of QEMU and of ours."""
    raw = raw_disk(folder / "disk.raw")
    with _theirs(raw, two_bitmaps, folder / "t"), _ours(raw, two_bitmaps, folder / "o"):
        yield str(folder / "t"), str(folder / "o")


def _theirs(raw: Path, two_bitmaps: Path, path: Path) -> Any:
    words = []
    for name, driver, image in (("r", "raw", raw), ("q", "qcow2", two_bitmaps)):
        words += ["--blockdev", f"driver=file,filename={image},node-name={name}f,read-only=on"]
        words += ["--blockdev", f"driver={driver},file={name}f,node-name={name},read-only=on"]
    words += ["--nbd-server", f"addr.type=unix,addr.path={path}"]
    words += ["--export", "type=nbd,id=r,node-name=r,name=raw,description=ein Text"]
    words += ["--export", ("type=nbd,id=q,node-name=q,name=,allocation-depth=on,"
              "bitmaps.0=weekly,bitmaps.1=daily")]  # fmt: skip
    # It tells of every refusal, and stops when nobody reads that.
    quiet = subprocess.DEVNULL
    return background(peer("qemu-storage-daemon"), *words, ready=path, stderr=quiet)


@contextlib.contextmanager
def _ours(raw: Path, two_bitmaps: Path, path: Path) -> Iterator[None]:
    from nbexport import block, nbd

    with (
        block.open_image(str(raw), format="raw") as plain,
        block.open_image(str(two_bitmaps)) as disk,
    ):
        found = [disk.find_bitmap(name) for name in ("weekly", "daily")]
        bitmaps = [(stored.name, stored.bitmap.extents) for _, stored in found]
        exports = (
            nbd.from_node(plain, "raw", description="ein Text"),
            nbd.from_node(disk, "", allocation_depth=True, bitmaps=bitmaps),
        )
        with serving(path, *exports):
            yield


class Scripts(dict[str, "Callable[[Talk], None]"]):
    """Scripts by their names, in the order in which they are written."""

    def one(self, function: Callable[[Talk], None]) -> Callable[[Talk], None]:
        """Register a script."""
        self[function.__name__] = function
        return function

    def family(self, **variants: tuple[Any, ...]) -> Callable[[Any], Any]:
        """Register one script for each variant: arguments of the function."""

        def register(function: Any) -> Any:
            for name, arguments in variants.items():
                self[f"{function.__name__}-{name}"] = lambda t, a=arguments: function(t, *a)
            return function

        return register

    def compare(self, name: str, pair: tuple[str, str]) -> None:
        """Run a script against both servers; fail at the first reply that differs."""
        logs = []
        for path in pair:
            with Talk(path) as talk:
                self[name](talk)
                logs.append(talk.log)
        for number, (expected, got) in enumerate(zip(*logs, strict=True)):
            assert got == expected, f"step {number}"


def begin(t: Talk, *contexts: bytes, export: bytes = DISK, structured: bool = True) -> None:
    """Negotiate up to the transmission phase."""
    t.flags()
    if structured:
        t.option(STRUCTURED)
    if contexts:
        t.option(SET_META, queries(export, *contexts))
    t.option(GO, info(export))


def alive(t: Talk) -> None:
    """Show that the stream is still in step."""
    t.request(READ, 5, 7, cookie=99)
