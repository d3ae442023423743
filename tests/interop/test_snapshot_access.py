"""snapshot-access above copy-before-write: old data, their map, what is given up, as QEMU shows."""

from __future__ import annotations

import re

import pytest
from monitors import DAEMON, OURS, monitor, unix
from peers import nbdinfo_map, run

from nbexport.units import KiB, MiB


def ask_qemu_io(folder, export, *commands, write=True):
    """Run qemu-io's commands at an export; return what it printed without times."""
    words = [word for command in commands for word in ("-c", command)]
    mode = [] if write else ["-r"]
    uri = f"nbd+unix:///{export}?socket={folder}/nbd.sock"
    done = run("qemu-io", *mode, "-f", "raw", *words, uri, check=False)
    text = re.sub(r"\d+(\.\d+)? (KiB|MiB|bytes), \d+ ops; .*", "", done.stdout + done.stderr)
    return text.replace(str(folder), "FOLDER"), done.returncode


def prepare(folder):
    (folder / "disk.raw").write_bytes(b"\x11" * (512 * KiB) + bytes(MiB - 512 * KiB))
    (folder / "kept.raw").write_bytes(bytes(MiB))


@pytest.mark.parametrize("with_bitmap", [False, True], ids=["all", "by bitmap"])
def test_what_is_kept_is_shown_as_qemu_shows_it(tmp_path, with_bitmap):
    shown = []
    for program in (DAEMON, OURS):
        folder = tmp_path / program
        with monitor(program, folder) as client:
            prepare(folder)
            for name in ("disk", "kept"):
                file = {"driver": "file", "filename": f"{name}.raw"}
                client.execute("blockdev-add", driver="raw", node_name=name, file=file)
            more = {}
            if with_bitmap:
                client.execute("block-dirty-bitmap-add", node="disk", name="b")
                client.execute("nbd-server-start", addr=unix())
                client.execute("block-export-add", type="nbd", id="w", node_name="disk",
                               name="w", writable=True)  # fmt: skip
                ask_qemu_io(folder, "w", "write -P 0x22 64k 128k")
                client.execute("block-export-del", id="w")
                client.wait_for("BLOCK_EXPORT_DELETED", 1)
                more = {"bitmap": {"node": "disk", "name": "b"}}
            else:
                client.execute("nbd-server-start", addr=unix())
            client.execute("blockdev-add", driver="copy-before-write", node_name="cbw",
                           file="disk", target="kept", **more)  # fmt: skip
            client.execute("blockdev-add", driver="snapshot-access", node_name="then", file="cbw")
            client.execute("blockdev-add", driver="snapshot-access", node_name="bad", file="disk")
            for name, node in (("now", "cbw"), ("then", "then"), ("bad", "bad")):
                client.execute("block-export-add", type="nbd", id=name, node_name=node,
                               name=name, writable=True)  # fmt: skip
            seen = [
                ask_qemu_io(folder, "then", "read -P 0x11 0 64k", "read -P 0 512k 64k"),
                ask_qemu_io(folder, "now", "write -P 0x33 100k 8k", "write -z 600k 64k"),
                ask_qemu_io(folder, "then", "read -P 0x11 256k 64k", "read 64k 64k"),
                ask_qemu_io(folder, "then", "read -P 0x33 100k 8k", "read -P 0 576k 128k"),
                ask_qemu_io(folder, "then", "write 0 64k", "write -z 0 64k"),
                ask_qemu_io(folder, "then", "discard 64k 64k", "read 64k 64k", "read 128k 64k"),
                ask_qemu_io(folder, "now", "write -P 0x44 64k 128k", "read -P 0x44 64k 64k"),
                ask_qemu_io(folder, "then", "read 0 1M", "read 128k 64k", "read -P 0x11 192k 64k"),
                ask_qemu_io(folder, "bad", "read 0 64k", "discard 0 64k"),
            ]
            client.execute("query-named-block-nodes", flat=True)
            log = [entry for entry in client.log if "event" not in entry]
            kept = (folder / "kept.raw").read_bytes()
            shown.append((seen, log, kept, (folder / "disk.raw").read_bytes()))
    theirs, ours = (without_numbers(each) for each in shown)
    assert ours[0] == theirs[0]
    assert ours[1] == theirs[1]
    assert ours[2:] == theirs[2:]


def without_numbers(shown):
    """Leave out what differs by nature: bytes that the host has given a file, digits of names."""
    seen, log, *data = shown
    return [seen, re.sub(r"'actual-size': \d+|#block\d+", "", repr(log)), *data]


def test_the_map_of_what_is_kept(tmp_path):
    maps = []
    for program in (DAEMON, OURS):
        folder = tmp_path / program
        with monitor(program, folder) as client:
            prepare(folder)
            for name in ("disk", "kept"):
                file = {"driver": "file", "filename": f"{name}.raw"}
                client.execute("blockdev-add", driver="raw", node_name=name, file=file)
            client.execute("blockdev-add", driver="copy-before-write", node_name="cbw",
                           file="disk", target="kept")  # fmt: skip
            client.execute("blockdev-add", driver="snapshot-access", node_name="then", file="cbw")
            client.execute("nbd-server-start", addr=unix())
            for name, node in (("now", "cbw"), ("then", "then")):
                client.execute("block-export-add", type="nbd", id=name, node_name=node,
                               name=name, writable=True)  # fmt: skip
            ask_qemu_io(folder, "now", "write -P 0x33 100k 8k", "discard 256k 64k")
            uri = f"nbd+unix:///then?socket={folder}/nbd.sock"
            maps.append(nbdinfo_map(uri, "base:allocation"))
            data = run("qemu-img", "compare", "-f", "raw", "-F", "raw", str(folder / "disk.raw"),
                       uri, check=False)  # fmt: skip
            maps.append(data.stdout)
    assert maps[:2] == maps[2:]
