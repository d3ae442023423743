"""Bitmaps of an image that is being written: ours beside those of a storage daemon."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monitors import daemon_client
from peers import background, nbdinfo_map, run

from nbexport import qmp
from nbexport.block import check_image, open_image, open_writable
from nbexport.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from nbexport.bits import Bitmap

pytestmark = pytest.mark.interop

MiB = 1 << 20
SIZE = 5 * MiB + 512
NAMES = ["b0", "b1"]
OPTIONS = [
    ("cluster_size=512",),
    ("cluster_size=4k", "refcount_bits=64"),
    ("cluster_size=64k",),
    ("cluster_size=16k", "extended_l2=on"),
    ("cluster_size=8k", "backing_file=FOLDER/backing.raw", "backing_fmt=raw"),
    ("cluster_size=64k", "data_file=FOLDER/NAME.data"),
]

place = st.integers(0, SIZE // 512 - 1).map(lambda sector: sector * 512)
write = st.tuples(
    st.sampled_from(["write", "write -z", "write -z -u", "discard"]),
    place,
    st.one_of(st.integers(1, 70_000), st.integers(1, 3 * MiB)),
    st.integers(1, 255),
)
change = st.one_of(
    st.tuples(st.just("add"), st.sampled_from(NAMES), st.sampled_from([512, 4096, 1 << 16, MiB])),
    st.tuples(st.sampled_from(["remove", "clear", "enable", "disable"]), st.sampled_from(NAMES)),
    st.tuples(st.just("merge"), st.sampled_from(NAMES), st.sampled_from(NAMES)),
)
sessions = st.lists(st.lists(st.one_of(write, change), max_size=6), min_size=1, max_size=3)


class Daemon:
    """A storage daemon that writes an image by commands and over NBD."""

    def __init__(self, client: qmp.QmpClient, socket: Path) -> None:
        self.qmp = client
        self.uri = f"nbd+unix:///n?socket={socket}"

    def ask(self, command: str, **arguments) -> str | None:
        """Return what is wrong, None if nothing is."""
        try:
            self.qmp.execute(
                command, {name.replace("_", "-"): arguments[name] for name in arguments}
            )
        except qmp.QmpCommandError as error:
            return error.desc
        return None

    @contextlib.contextmanager
    def opened(self, path: Path, *, read_only: bool = False):
        file = {"driver": "file", "filename": str(path), "discard": "unmap"}
        options = {"driver": "qcow2", "node-name": "n", "file": file, "discard": "unmap"}
        self.qmp.execute("blockdev-add", {**options, "read-only": read_only})
        try:
            yield
        finally:
            self.qmp.execute("blockdev-del", {"node-name": "n"})

    @contextlib.contextmanager
    def exported(self):
        export = {"type": "nbd", "id": "e", "node-name": "n", "name": "n", "writable": True}
        self.qmp.execute("block-export-add", export)
        try:
            yield
        finally:
            self.qmp.execute("block-export-del", {"id": "e", "mode": "hard"})
            self.qmp.wait_event("BLOCK_EXPORT_DELETED")

    def bitmaps(self) -> dict[str, tuple]:
        """Return granularity, state and digest of every bitmap of the open image."""
        nodes = self.qmp.execute("query-named-block-nodes", {"flat": True})
        found = next(node for node in nodes if node["node-name"] == "n")
        told = {}
        for one in found.get("dirty-bitmaps", []):
            arguments = {"node": "n", "name": one["name"]}
            digest = self.qmp.execute("x-debug-block-dirty-bitmap-sha256", arguments)["sha256"]
            told[one["name"]] = (one["granularity"], one["recording"], one["count"], digest)
        return told


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    folder = tmp_path_factory.mktemp("daemon")
    path, socket = folder / "qmp.sock", folder / "nbd.sock"
    with daemon_client(path) as client:
        address = {"type": "unix", "data": {"path": str(socket)}}
        client.execute("nbd-server-start", {"addr": address})
        yield Daemon(client, socket)


def digest(bitmap: Bitmap) -> str:
    packed = bitmap.to_bytes()
    return hashlib.sha256(packed.ljust(-(-len(packed) // 8) * 8, b"\0")).hexdigest()


def ours(node) -> dict[str, tuple]:
    return {
        one.name: (one.granularity, one.enabled, one.bitmap.count, digest(one.bitmap))
        for one in node.bitmaps.values()
    }


def change_ours(node, step) -> str | None:
    try:
        if step[0] == "merge":
            node.bitmap_store.find(step[1])
            if step[2] not in node.bitmaps:
                return f"Dirty bitmap '{step[2]}' not found"
            node.bitmap_store.merge(step[1], node.bitmaps[step[2]])
        else:
            getattr(node.bitmap_store, step[0])(*step[1:])
    except UsageError as error:
        return str(error)
    return None


def change_theirs(daemon: Daemon, step) -> str | None:
    command = f"block-dirty-bitmap-{step[0]}"
    if step[0] == "add":
        return daemon.ask(command, node="n", name=step[1], granularity=step[2], persistent=True)
    if step[0] == "merge":
        return daemon.ask(command, node="n", target=step[1], bitmaps=[step[2]])
    return daemon.ask(command, node="n", name=step[1])


def write_ours(node, what: str, at: int, length: int, pattern: int) -> None:
    if what == "write":
        node.write_from(at, memoryview(bytes([pattern]) * length))
    elif what == "discard":
        node.discard(at, length)
    else:
        node.write_zeroes(at, length, unmap=what.endswith("u"))


def is_write(step) -> bool:
    return step[0].startswith("write") or step[0] == "discard"


@pytest.mark.parametrize("options", OPTIONS, ids=lambda words: words[0] + words[-1][:8])
@settings(
    max_examples=4,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(sessions=sessions)
def test_bitmaps_follow_what_is_written_as_qemus_do(tmp_path, daemon, options, sessions):
    twin, mine = tmp_path / "twin.qcow2", tmp_path / "mine.qcow2"
    (tmp_path / "backing.raw").write_bytes(b"\x55" * 3 * MiB)
    for path in (twin, mine):
        path.unlink(missing_ok=True)
        words = ",".join(options).replace("FOLDER", str(tmp_path)).replace("NAME", path.name)
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", words, path, str(SIZE))
    for session in sessions:
        with daemon.opened(twin), contextlib.closing(open_writable(mine, "qcow2")) as node:
            for step in session:
                if not is_write(step):
                    theirs = change_theirs(daemon, step)
                    assert change_ours(node, step) == theirs, step
                    continue
                what, at, length, pattern = step
                length = min(length, SIZE - at)
                write_ours(node, what, at, length, pattern)
                fill = f" -P {pattern}" if what == "write" else ""
                with daemon.exported():
                    run("qemu-io", "-f", "raw", "-c", f"{what}{fill} {at} {length}", daemon.uri)
            assert ours(node) == daemon.bitmaps()
        done = run("qemu-img", "check", mine, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert check_image(str(mine)).messages == []
        with daemon.opened(twin, read_only=True):
            theirs = daemon.bitmaps()
        with daemon.opened(mine, read_only=True):
            assert daemon.bitmaps() == theirs
        with open_image(mine) as node:
            assert ours(node) == theirs
    if not any(word.startswith("data_file") for word in options):
        # What a discard leaves is not promised with an external file.
        run("qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", mine, twin)


def test_a_client_sees_the_bitmap_change_while_it_is_served(tmp_path):
    path, socket = tmp_path / "a.qcow2", tmp_path / "nbd.sock"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
    run("qemu-img", "bitmap", "--add", "-g", "64k", path, "b0")
    command = [sys.executable, "-m", "nbexport", "serve", "-f", "qcow2", "--writable"]
    uri = f"nbd+unix:///?socket={socket}"

    def dirty() -> list[tuple[int, int]]:
        found = nbdinfo_map(uri, "qemu:dirty-bitmap:b0")
        return [(one["offset"], one["length"]) for one in found if one["type"]]

    with background(
        *command, "-B", "b0", "--socket", socket, path, ready=socket, stdout=subprocess.DEVNULL
    ) as process:
        assert dirty() == []
        run("qemu-io", "-f", "raw", "-c", "write 100k 1k", uri)
        assert dirty() == [(64 << 10, 64 << 10)]
        run("qemu-io", "-f", "raw", "-c", "write -z 512k 128k", uri)
        assert dirty() == [(64 << 10, 64 << 10), (512 << 10, 128 << 10)]
        process.terminate()
        process.wait(20)
    assert check_image(str(path)).messages == []
    with open_image(path) as node:
        stored = node.bitmaps["b0"]
        assert not stored.inconsistent
        assert stored.bitmap.count == 192 << 10
